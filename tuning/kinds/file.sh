# shellcheck shell=bash
# Settings that are files: one value of sysfs or procfs, a bracketed choice, a mask of cores, a list of cores, a whole document.

read_file() {
    [ -e "$ROOT$1" ] || { echo "this host has no $1" && return 1; }
    cat "$ROOT$1"
}
write_file() { printf '%s\n' "$2" >"$ROOT$1"; }

# Files like /sys/kernel/mm/transparent_hugepage/enabled show all choices, with the current one in brackets.
read_choice() {
    read_file "$1" | sed 's/.*\[\(.*\)\].*/\1/'
    return "${PIPESTATUS[0]}"
}
write_choice() { write_file "$1" "$2"; }

# Masks are as wide as the kernel likes; without the zeros in front they can be compared.
read_mask() {
    read_file "$1" | sed 's/^[0,]*\(.\)/\1/'
    return "${PIPESTATUS[0]}"
}
write_mask() { write_file "$1" "$2"; }

# Lists of cores that only the kernel command line can set. Some kernels print (null) for none.
read_cores() {
    read_file "$1" | sed 's/^(null)$//'
    return "${PIPESTATUS[0]}"
}

# Documents travel as one line, with backslashes, tabs and line ends escaped; the dot keeps the last line ends.
document_line() {
    local text
    text=$(cat "$1" && echo .)
    text=${text%.}
    text=${text//\\/\\\\}
    text=${text//$'\t'/\\t}
    printf '%s\n' "${text//$'\n'/\\n}"
}
read_document() {
    if [ -e "$ROOT$1" ]; then document_line "$ROOT$1"; else echo absent; fi
}
write_document() {
    if [ "$2" = absent ]; then
        rm -f "$ROOT$1"
    else
        mkdir -p "$(dirname "$ROOT$1")" && printf '%b' "$2" >"$ROOT$1"
    fi
}
