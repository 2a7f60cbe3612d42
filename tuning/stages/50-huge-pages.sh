# shellcheck shell=bash
# Huge pages for the packet arenas.

reason() {
    echo "a worker's arena is 128 MiB: 32768 pages of 4 KiB, or 64 of 2 MiB, where a core's TLB holds some 1500; the server asks" \
        "for transparent ones, or takes 64 reserved ones (vm.nr_hugepages) a worker where they are free; none are by default"
}

settings() {
    local folder=/sys/kernel/mm/transparent_hugepage
    # `always` serves the arenas just as well, and may be there for another program.
    [ "$(read_choice "$folder/enabled")" = always ] || exactly "choice:$folder/enabled" madvise
    # How hard a page fault tries for a huge page: `madvise` compacts memory on the spot, `defer` leaves that to the background.
    exactly "choice:$folder/defrag" "$(value defrag)"
    at_least sysctl:vm.nr_hugepages "$(value reserved)"
}
