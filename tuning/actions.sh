# shellcheck shell=bash
# check, apply and undo, the same for every stage: a stage says in `settings` what it wants, so what is set, what is verified
# and what is put back cannot drift apart.
#
# `settings` prints a line for each setting, by one of the functions below. A setting is KIND:KEY; a file in kinds/ has
# read_KIND and write_KIND. read_KIND prints the value, or why there is none here and returns 1.

at_least() { printf 'at-least\t%s\t%s\n' "$1" "$2"; }
exactly() { printf 'exactly\t%s\t%s\n' "$1" "$2"; }
# Cores that a kernel parameter has to name. The boot loader is the operator's: the parameter is told, never written.
parameter() { printf 'parameter\t%s\t%s\t%s\n' "$1" "$2" "$3"; }
# A program without which the stage can neither look nor act.
needs() {
    command -v "$1" >/dev/null || printf 'needs\t%s\t-\n' "$1"
}
not_applicable() { printf 'none\t-\t%s\n' "$1"; }

read_setting() { "read_${1%%:*}" "${1#*:}"; }
write_setting() { "write_${1%%:*}" "${1#*:}" "$2"; }

# How a setting is called towards the operator.
label() {
    case $1 in
        sysctl:* | file:* | choice:* | mask:* | cores:*) echo "${1#*:}" ;;
        document:* | unit:*) echo "${1#*:}" ;;
        *) echo "${1%%:*} ${1#*:}" ;;
    esac
}

# A value for the operator: of a document only whether it is there.
show() {
    case $1 in
        document:* | unit:*) if [ "$2" = absent ]; then echo absent; else echo "a file of ${#2} characters"; fi ;;
        *) echo "${2:-none}" ;;
    esac
}

# RELATION CURRENT WANTED
satisfied() {
    case $1 in
        at-least) [[ $2 =~ ^[0-9]+$ ]] && [ "$2" -ge "$3" ] ;;
        exactly) [ "$2" = "$3" ] ;;
        parameter) [ -z "$(comm -13 <(expand_list "$2" | sort) <(expand_list "$3" | sort))" ] ;;
    esac
}

wish() {
    local amount=''
    [ "$1" = at-least ] && amount='at least '
    echo "wanted $amount$(show "$2" "$3")"
}

# The first two of the lines on standard input, and how many more there are.
shorten() {
    awk '!seen[$0]++ { line[++n] = $0 }
        END { printf "%s", line[1]; if (n > 1) printf "; %s", line[2]; if (n > 2) printf "; and %d more", n - 2; print "" }'
}

check_stage() {
    local relation setting wanted text current verdict=none good='' bad='' absent=''
    while IFS=$'\t' read -r relation setting wanted text; do
        case $relation in
            needs) verdict=missing bad="$bad$setting is not installed"$'\n' && continue ;;
            none) absent="$absent$wanted"$'\n' && continue ;;
        esac
        if ! current=$(read_setting "$setting"); then
            absent="$absent$current"$'\n'
        elif satisfied "$relation" "$current" "$wanted"; then
            good="$good$(label "$setting") is $(show "$setting" "$current")"$'\n'
            [ "$verdict" = none ] && verdict=ok
        else
            bad="$bad$(label "$setting") is $(show "$setting" "$current"), $(wish "$relation" "$setting" "$wanted")"$'\n'
            if [ "$current" = absent ] || [ "$relation" = parameter ]; then verdict=missing; fi
            [ "$verdict" = missing ] || verdict=degraded
        fi
    done < <(settings)
    local details=$absent
    case $verdict in
        none) verdict='not applicable' ;;
        ok) details=$good$absent ;;
        *) details=$bad ;;
    esac
    printf '%-14s  %-20s  %s — %s\n' "$verdict" "$STAGE" "$(printf '%s' "$details" | shorten)" "$(reason)"
    case $verdict in
        degraded | missing) return 1 ;;
    esac
}

# Keeps former values, lines of SETTING and VALUE, once and for all: a second apply must not take the first one's value for the
# original.
keep() {
    local saved="$STATE/$STAGE" setting former
    mkdir -p "$STATE" && touch "$saved" || return 1
    while IFS=$'\t' read -r setting former; do
        cut -f 1 "$saved" | grep -qxF -- "$setting" || printf '%s\t%s\n' "$setting" "$former" >>"$saved" || return 1
    done
}

say() { printf '%-20s  %s\n' "$STAGE" "$*"; }

apply_stage() {
    local relation setting wanted text current error index result=0 changes=0 former='' kept=false
    local -a relations=() names=() wishes=() texts=() before=()
    # All former values are read, and kept, before anything is written: one setting may move another (a card's queues move its
    # RSS table).
    while IFS=$'\t' read -r relation setting wanted text; do
        case $relation in
            needs) say "failed: $setting is not installed" && result=1 && continue ;;
            none) say "not applicable: $wanted" && continue ;;
        esac
        current=$(read_setting "$setting") || continue
        relations+=("$relation") names+=("$setting") wishes+=("$wanted") texts+=("$text") before+=("$current")
        [ "$relation" = parameter ] || former="$former$setting"$'\t'"$current"$'\n'
    done < <(settings)
    for index in "${!names[@]}"; do
        relation=${relations[index]} setting=${names[index]} wanted=${wishes[index]}
        current=$(read_setting "$setting")
        satisfied "$relation" "$current" "$wanted" && continue
        changes=$((changes + 1))
        local change
        change="$(label "$setting"): $(show "$setting" "${before[index]}") → $(show "$setting" "$wanted")"
        if [ "$relation" = parameter ]; then
            say "by hand: add ${texts[index]} to the kernel command line (GRUB_CMDLINE_LINUX in /etc/default/grub, then" \
                "update-grub; with systemd-boot /etc/kernel/cmdline) and reboot; undo by taking it out again"
            continue
        elif ! $YES; then
            say "would set $change"
            continue
        elif ! $kept; then
            error=$(printf '%s' "$former" | keep 2>&1) || { say "failed: former values cannot be kept, so they stay: $error" && return 1; }
            kept=true
        fi
        if ! error=$(write_setting "$setting" "$wanted" 2>&1); then
            say "failed: $change: $error" && result=1
        elif current=$(read_setting "$setting") && satisfied "$relation" "$current" "$wanted"; then
            say "set $change"
        else
            say "failed: $change: the kernel made it $(show "$setting" "$current")" && result=1
        fi
    done
    [ $changes -gt 0 ] || [ $result -gt 0 ] || say 'nothing to do'
    return $result
}

undo_stage() {
    local saved="$STATE/$STAGE" left='' setting former current error result=0
    if [ ! -e "$saved" ]; then
        say 'nothing to undo'
        return
    fi
    while IFS=$'\t' read -r setting former; do
        local change
        if ! current=$(read_setting "$setting"); then
            say "failed: $current" && result=1
            left="$left$setting"$'\t'"$former"$'\n'
            continue
        fi
        change="$(label "$setting"): $(show "$setting" "$current") → $(show "$setting" "$former")"
        if [ "$current" = "$former" ]; then
            continue
        elif ! $YES; then
            say "would put back $change"
        elif error=$(write_setting "$setting" "$former" 2>&1) && current=$(read_setting "$setting") && [ "$current" = "$former" ]; then
            say "put back $change"
        else
            say "failed: $change: ${error:-it is $(show "$setting" "$current")}" && result=1
            left="$left$setting"$'\t'"$former"$'\n'
        fi
    done <"$saved"
    $YES || return $result
    if [ -n "$left" ]; then
        printf '%s' "$left" >"$saved"
    else
        rm -f "$saved"
        say 'all is as it was'
    fi
    return $result
}
