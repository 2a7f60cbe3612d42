# shellcheck shell=bash
# Which core each interrupt of the card goes to.

reason() {
    echo "each receive queue interrupts a core of its own: left to itself the kernel or irqbalance puts several on one core, which" \
        "then drops while others idle; throughput shares them out over the workers' cores, latency keeps them off those"
}

settings() {
    local interface index ordinal
    local -a cores
    mapfile -t cores < <(interrupt_cores)
    for interface in $(interfaces); do
        while read -r index ordinal; do
            exactly "irq:$interface/$index" "${cores[ordinal % ${#cores[@]}]}"
        done < <(interrupt_ordinals "$interface")
        [ -n "$(interrupts "$interface")" ] || not_applicable "$interface has no interrupts of its own"
    done
    [ -n "$(interfaces)" ] || not_applicable 'there is no default route: name a card with --interface'
    # irqbalance would move them away again within ten seconds.
    command -v systemctl >/dev/null && exactly service:irqbalance.service inactive
}
