# shellcheck shell=bash
# The server as a service. Installed, not started: systemctl enable --now distributary

reason() {
    echo "starts the server at boot and again within a second of a crash, with the limits it needs (65536 files, locked memory" \
        "unlimited) and no right to anything but its sockets"
}

settings() {
    if command -v systemctl >/dev/null; then
        exactly unit:distributary.service "$(document_line "$HERE/distributary.service")"
    else
        not_applicable 'this host has no systemd'
    fi
}
