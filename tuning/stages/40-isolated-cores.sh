# shellcheck shell=bash
# Keeps the scheduler from putting anything else on the workers' cores.

reason() {
    echo "without it any other process may run on a worker's core for a slice of 3 ms or so, and datagrams wait as long; the server" \
        "then needs media.cores, for it is not offered isolated cores by itself"
}

settings() {
    local cores
    cores=$(workers_cores | join_list)
    parameter cores:/sys/devices/system/cpu/isolated "$cores" "isolcpus=managed_irq,domain,$cores"
}
