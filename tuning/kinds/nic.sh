# shellcheck shell=bash
# Settings of a network card, by ethtool and /proc/irq. Keys are INTERFACE or INTERFACE/NAME.

# The value after `NAME:` in a part of ethtool's output: 1 the maxima, 2 what is set. Fails if there is none.
ethtool_field() {
    awk -F ':[ \t]+' -v name="$1" -v part="$2" '
        /^Pre-set maximums/ { section = 1 } /^Current hardware settings/ { section = 2 }
        section == part && tolower($1) == name && $2 ~ /^[0-9]+$/ { print $2; found = 1; exit }
        END { exit !found }'
}

# How many channels of a sort (combined, rx, tx) the card can have.
channels_max() { ethtool -l "${1%/*}" 2>/dev/null | ethtool_field "${1##*/}" 1; }
read_channels() {
    ethtool -l "${1%/*}" 2>/dev/null | ethtool_field "${1##*/}" 2 || { echo "${1%/*} has no ${1##*/} channels to set" && return 1; }
}
write_channels() {
    # An RSS table that names a queue forbids to take it away; the table is set afterwards. Not every card has one.
    regular_rss "${1%/*}" || return 1
    ethtool -X "${1%/*}" default >/dev/null 2>&1
    ethtool -L "${1%/*}" "${1##*/}" "$2"
}

ring_max() { ethtool -g "${1%/*}" 2>/dev/null | ethtool_field "${1##*/}" 1; }
read_ring() {
    ethtool -g "${1%/*}" 2>/dev/null | ethtool_field "${1##*/}" 2 || { echo "${1%/*} does not tell its ring sizes" && return 1; }
}
write_ring() { ethtool -G "${1%/*}" "${1##*/}" "$2"; }

# The RSS table in the words that set it: `equal N` if it is 0 1 … N-1 over and over, `weight …` if queue follows queue in
# blocks, `irregular` otherwise, which ethtool cannot set and so nobody could put back.
read_rss() {
    ethtool -x "$1" 2>/dev/null | awk '
        /^RX flow hash indirection table/ { table = 1; next }
        table && /^ *[0-9]+:/ { for (field = 2; field <= NF; field++) queue[size++] = $field; next }
        { table = 0 }
        END {
            if (!size) exit 1
            blocks = 1
            for (n = 0; n < size; n++) { count[queue[n]]++; if (queue[n] > last) last = queue[n]; if (n && queue[n] < queue[n - 1]) blocks = 0 }
            equal = 1
            for (n = 0; n < size; n++) if (queue[n] != n % (last + 1)) equal = 0
            if (equal) print "equal " last + 1
            else if (blocks) { printf "weight"; for (n = 0; n <= last; n++) printf " %d", count[n]; print "" }
            else print "irregular"
        }' || { echo "$1 has no RSS table" && return 1; }
}
regular_rss() {
    [ "$(read_rss "$1")" != irregular ] || { echo "the RSS table of $1 is irregular and could not be put back" && return 1; }
}
write_rss() {
    local -a words
    regular_rss "$1" || return 1
    read -ra words <<<"$2"
    ethtool -X "$1" "${words[@]}"
}

# The fields that a flow type (udp4, udp6) is hashed over, in ethtool's letters.
read_flow_hash() {
    ethtool -n "${1%/*}" rx-flow-hash "${1##*/}" 2>/dev/null | awk '
        /^IP SA/ { letters = letters "s" } /^IP DA/ { letters = letters "d" }
        /^L4 bytes 0/ { letters = letters "f" } /^L4 bytes 2/ { letters = letters "n" }
        END { print letters; exit letters == "" }' | grep . || { echo "${1%/*} does not tell how it hashes ${1##*/}" && return 1; }
}
write_flow_hash() { ethtool -N "${1%/*}" rx-flow-hash "${1##*/}" "$2"; }

# adaptive-rx (on, off) or a number such as rx-usecs.
read_coalesce() {
    ethtool -c "${1%/*}" 2>/dev/null | awk -v name="${1##*/}" '
        /^Adaptive RX:/ && name == "adaptive-rx" { print $3; found = $3 ~ /^(on|off)$/; exit }
        $1 == name ":" { print $2; found = $2 ~ /^[0-9]+$/; exit }
        END { exit !found }' | grep -v n/a || { echo "${1%/*} has no ${1##*/}" && return 1; }
}
write_coalesce() { ethtool -C "${1%/*}" "${1##*/}" "$2"; }

# on or off; what the driver has fixed is no setting.
read_feature() {
    local line
    line=$(ethtool -k "${1%/*}" 2>/dev/null | sed -n "s/^[ \t]*${1##*/}: //p")
    case $line in
        on* | off*) ;;
        *) echo "${1%/*} has no ${1##*/}" && return 1 ;;
    esac
    case $line in
        on*) echo on ;;
        *fixed*) echo "${1%/*} cannot do ${1##*/}" && return 1 ;;
        *) echo off ;;
    esac
}
write_feature() { ethtool -K "${1%/*}" "${1##*/}" "$2"; }

# Message-signalled interrupts of an interface, in order. A virtio interface's belong to the PCI device above it.
interrupts() {
    local folder
    for folder in "$ROOT/sys/class/net/$1/device/msi_irqs" "$ROOT/sys/class/net/$1/device/../msi_irqs"; do
        [ -d "$folder" ] || continue
        basename -a "$folder"/* | sort -n
        return
    done
}

# INDEX and ORDINAL of each interrupt that a driver has named: its place among the interface's interrupts, and among those
# that are named alike but for their numbers. So input 0, output 0, input 1, output 1 have the ordinals 0 0 1 1.
interrupt_ordinals() {
    awk 'NR == FNR { index_of[$1 ":"] = FNR; next }
        $1 in index_of { family = $NF; gsub(/[0-9]+/, "", family); print index_of[$1] - 1, seen[family]++ + 0 }' \
        <(interrupts "$1") "$ROOT/proc/interrupts"
}

# Interrupts are known by their place, not by their number, which another boot may change.
interrupt_file() {
    local number
    number=$(interrupts "${1%/*}" | sed -n "$((${1##*/} + 1))p")
    echo "/proc/irq/${number:-none}/smp_affinity_list"
}
read_irq() { read_file "$(interrupt_file "$1")"; }
write_irq() { write_file "$(interrupt_file "$1")" "$2"; }
