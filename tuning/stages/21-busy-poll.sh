# shellcheck shell=bash
# Whether a receive that finds nothing asks the card itself for a while.

reason() {
    echo "busy polling for 50 µs saves the interrupt and the wake-up, some 5 to 20 µs on each quiet receive, and pays with a core" \
        "that never rests; under load there is always something to receive, and it gains nothing"
}

settings() {
    exactly sysctl:net.core.busy_read "$(value microseconds)"
    exactly sysctl:net.core.busy_poll "$(value microseconds)"
}
