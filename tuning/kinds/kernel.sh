# shellcheck shell=bash
# Kernel variables, by sysctl.

read_sysctl() {
    sysctl -n "$1" 2>/dev/null || { echo "this kernel has no $1" && return 1; }
}
write_sysctl() { sysctl -q -w "$1=$2"; }
