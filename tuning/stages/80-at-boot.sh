# shellcheck shell=bash
# Applies at each boot, with the same options, the stages that have been applied: nothing above but documents outlives one.

reason() {
    echo "kernel variables, card settings and interrupts are back at their defaults after a reboot; this applies the stages that" \
        "were applied before, ahead of the server"
}

settings() {
    if ! command -v systemctl >/dev/null; then
        not_applicable 'this host has no systemd'
        return
    fi
    exactly unit:distributary-tuning.service "$(unit_text | document_line -)"
    exactly enabled:distributary-tuning.service enabled
}

unit_text() {
    local options="--profile $PROFILE" interface
    for interface in "${INTERFACES[@]}"; do options="$options --interface $interface"; done
    [ -z "$WORKERS_CORES" ] || options="$options --workers-cores $WORKERS_CORES"
    cat <<END
[Unit]
Description=Host settings for Distributary
# irqbalance is stopped by stage 11-nic-interrupts, and so has to be there before.
After=network.target systemd-sysctl.service irqbalance.service
Before=distributary.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart="$HERE/tune" apply --at-boot --yes $options

[Install]
WantedBy=multi-user.target
END
}
