# shellcheck shell=bash
# How long the card gathers datagrams before it interrupts.

reason() {
    echo "an interrupt for each datagram costs more than the datagram; adaptive moderation serves both ends of the load, a fixed" \
        "8 µs bounds what the card adds to latency and still lets a 10 Gb/s card gather some 8 full datagrams"
}

settings() {
    needs ethtool
    local interface
    for interface in $(interfaces); do
        exactly "coalesce:$interface/adaptive-rx" "$(value adaptive_rx)"
        # Adaptive moderation sets the microseconds itself, and so they are nobody's to check.
        [ "$(value adaptive_rx)" = on ] || exactly "coalesce:$interface/rx-usecs" "$(value rx_usecs)"
    done
    [ -n "$(interfaces)" ] || not_applicable 'there is no default route: name a card with --interface'
}
