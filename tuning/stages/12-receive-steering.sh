# shellcheck shell=bash
# Receive packet steering: software's stand-in for queues that the card has not.

reason() {
    echo "with fewer receive queues than cores, RPS lets the others do the protocol work too: the 400 to 800 ns that a datagram" \
        "costs before a worker sees it; with a queue for each core it would only add a hop between cores"
}

settings() {
    local interface queue queues count mask
    count=$(interrupt_cores | wc -l)
    mask=$(interrupt_cores | cores_mask)
    for interface in $(interfaces); do
        queues=0
        for queue in "$ROOT/sys/class/net/$interface"/queues/rx-*; do [ -e "$queue" ] && queues=$((queues + 1)); done
        if [ "$queues" -ge "$count" ]; then
            not_applicable "$interface has a queue for each of $count cores"
            continue
        fi
        for queue in "$ROOT/sys/class/net/$interface"/queues/rx-*; do
            [ -e "$queue" ] && exactly "mask:${queue#"$ROOT"}/rps_cpus" "$mask"
        done
    done
    [ -n "$(interfaces)" ] || not_applicable 'there is no default route: name a card with --interface'
}
