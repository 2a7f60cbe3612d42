# shellcheck shell=bash
# Units of systemd: their files, whether they run, whether they start at boot.

# systemd's own test for "booted with systemd": without it there is nobody to tell.
reload_units() {
    [ ! -d "$ROOT/run/systemd/system" ] || systemctl daemon-reload
}

read_unit() { read_document "/etc/systemd/system/$1"; }
write_unit() {
    # A unit that goes takes its links in other units' folders along.
    if [ "$2" = absent ] && [ "$(read_enabled "$1")" = enabled ]; then write_enabled "$1" disabled; fi
    write_document "/etc/systemd/system/$1" "$2" && reload_units
}

# active or inactive. A service that does not exist is inactive.
read_service() {
    if systemctl is-active --quiet "$1" 2>/dev/null; then echo active; else echo inactive; fi
}
write_service() {
    case $2 in
        active) systemctl start "$1" ;;
        *) systemctl stop "$1" ;;
    esac
}

# enabled or disabled
read_enabled() {
    if systemctl is-enabled --quiet "$1" 2>/dev/null; then echo enabled; else echo disabled; fi
}
write_enabled() {
    case $2 in
        enabled) systemctl --quiet enable "$1" ;;
        *) systemctl --quiet disable "$1" ;;
    esac
}
