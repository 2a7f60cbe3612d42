# shellcheck shell=bash
# Sleep states of the workers' cores. Set while running, which needs no reboot, spares the other cores and can be put back;
# intel_idle.max_cstate and processor.max_cstate on the kernel command line do the same for all cores.

reason() {
    echo "a core leaves C1 in about 2 µs, C6 in 100 µs and more, and that is added to the first datagram after each pause;" \
        "shallow sleep costs some watts a core"
}

settings() {
    local core state latency found=false most
    most=$(value latency_us_max)
    for core in $(workers_cores); do
        for state in "$ROOT/sys/devices/system/cpu/cpu$core"/cpuidle/state*; do
            latency=$(cat "$state/latency" 2>/dev/null) || continue
            found=true
            exactly "file:${state#"$ROOT"}/disable" "$((latency > most ? 1 : 0))"
        done
    done
    $found || not_applicable 'this host has no say in the sleep of its cores (a guest has none)'
}
