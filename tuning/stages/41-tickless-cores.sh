# shellcheck shell=bash
# Stops the kernel's periodic work on the workers' cores.

reason() {
    echo "the tick interrupts a busy core 100 to 1000 times a second for some microseconds; without it each system call costs a" \
        "little more, so it is for latency and not for throughput"
}

settings() {
    local cores
    cores=$(workers_cores | join_list)
    parameter cores:/sys/devices/system/cpu/nohz_full "$cores" "nohz_full=$cores rcu_nocbs=$cores"
}
