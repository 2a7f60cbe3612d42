# shellcheck shell=bash
# Frequency governor of the workers' cores.

reason() {
    echo "a governor that follows the load takes up to 10 ms to speed a core up, and a worker that sleeps between bursts looks" \
        "idle to it; performance keeps the workers' cores at their highest frequency"
}

settings() {
    local core file found=false
    for core in $(workers_cores); do
        file="/sys/devices/system/cpu/cpu$core/cpufreq/scaling_governor"
        [ -e "$ROOT$file" ] || continue
        found=true
        exactly "file:$file" performance
    done
    $found || not_applicable 'this host has no say in the frequency of its cores (a guest has none)'
}
