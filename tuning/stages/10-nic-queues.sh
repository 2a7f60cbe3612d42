# shellcheck shell=bash
# Queues of the card, their depth, and what spreads datagrams over them.

reason() {
    echo "one receive queue for each core that takes the card's interrupts, hashed over ports too: many cards hash UDP by address" \
        "alone, and then all viewers behind one address come to one core; 400 to 800 ns of a core go into each datagram received"
}

settings() {
    needs ethtool
    local interface sort flow most count
    count=$(interrupt_cores | wc -l)
    for interface in $(interfaces); do
        # A card has combined queues, or separate ones; some list maxima for both.
        for sort in combined rx tx; do
            most=$(channels_max "$interface/$sort")
            [ "${most:-0}" -gt 0 ] || continue
            exactly "channels:$interface/$sort" "$((count < most ? count : most))"
            [ "$sort" = tx ] || exactly "rss:$interface" "equal $((count < most ? count : most))"
            [ "$sort" = combined ] && break
        done
        for flow in udp4 udp6; do exactly "flow_hash:$interface/$flow" sdfn; done
        most=$(ring_max "$interface/rx")
        [ "${most:-0}" -gt 0 ] && at_least "ring:$interface/rx" "$(ring_depth "$most")"
    done
    [ -n "$(interfaces)" ] || not_applicable 'there is no default route: name a card with --interface'
}

ring_depth() {
    local wanted
    wanted=$(value ring)
    echo $(($1 < wanted ? $1 : wanted))
}
