# shellcheck shell=bash
# Questions that several stages ask about the host: its cores and its network interfaces.

# A kernel-style list such as 0-2,5 as words, in order, each once. Fails on anything else.
expand_list() {
    local part from to cores=''
    [[ $1 =~ ^[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*$ ]] || return 1
    for part in ${1//,/ }; do
        from=$((10#${part%-*})) to=$((10#${part#*-}))
        [ "$from" -le "$to" ] || return 1
        cores=$cores$(seq "$from" "$to")$'\n'
    done
    sort -nu <<<"${cores%$'\n'}"
}

online_list() {
    cat "$ROOT/sys/devices/system/cpu/online" 2>/dev/null || echo 0
}

# Cores of the workers, a word each: those asked for, or like the server all but the first.
workers_cores() {
    if [ -n "$WORKERS_CORES" ]; then
        expand_list "$WORKERS_CORES"
    else
        expand_list "$(online_list)" | awk '{ core[NR] = $1 } END { for (n = NR > 1 ? 2 : 1; n <= NR; n++) print core[n] }'
    fi
}

# All cores but the workers'; all there are if the workers have every one.
other_cores() {
    local others
    others=$(comm -23 <(expand_list "$(online_list)" | sort) <(workers_cores | sort) | sort -n)
    if [ -n "$others" ]; then echo "$others"; else expand_list "$(online_list)"; fi
}

# The cores that the profile gives to the card's interrupts: `workers` or `others`.
interrupt_cores() {
    case $(value cores) in
        workers) workers_cores ;;
        *) other_cores ;;
    esac
}

# Words as a comma-separated list.
join_list() {
    paste -sd ,
}

# The hexadecimal mask of the cores on standard input, as the kernel writes it but for zeros in front.
cores_mask() {
    awk 'BEGIN { last = 0 }
        { word = int($1 / 32); bits[word] += 2 ^ ($1 % 32); if (word > last) last = word }
        END { for (n = last; n >= 0; n--) printf n == last ? "%x" : ",%08x", bits[n]; print "" }'
}

# Interfaces to tune: those asked for, or the one of the default route.
interfaces() {
    if [ ${#INTERFACES[@]} -gt 0 ]; then
        printf '%s\n' "${INTERFACES[@]}"
        return
    fi
    local route="$ROOT/proc/net/route" route6="$ROOT/proc/net/ipv6_route" found=''
    # Flag 1 is RTF_UP; of several routes the lowest metric is used.
    [ -r "$route" ] && found=$(awk '$2 == "00000000" && $8 == "00000000" && substr($4, 4) % 2 { print $7, $1 }' "$route" | sort -n)
    if [ -z "$found" ] && [ -r "$route6" ]; then
        found=$(awk '$1 ~ /^0+$/ && $2 == "00" && $10 != "lo" { print $6, $10 }' "$route6" | sort)
    fi
    awk 'NR == 1 { print $2 }' <<<"$found"
}
