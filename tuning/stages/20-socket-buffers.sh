# shellcheck shell=bash
# The most that a socket may ask for as its buffers.

reason() {
    echo "each worker asks for 8 MiB in both directions, 50 ms of 1 Gb/s; with the kernel's usual maximum of 208 KiB, which holds" \
        "some 180 datagrams, a worker that is busy for 2 ms of 1 Gb/s loses some"
}

settings() {
    at_least sysctl:net.core.rmem_max "$(value bytes)"
    at_least sysctl:net.core.wmem_max "$(value bytes)"
}
