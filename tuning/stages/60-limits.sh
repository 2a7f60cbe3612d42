# shellcheck shell=bash
# Limits of a server started from a login; under systemd its unit has them.

reason() {
    echo "each HTTP connection is an open file and the usual limit is 1024; kernels before 5.12 count the rings of io_uring as" \
        "locked memory, of which a login has 64 KiB to 8 MiB"
}

settings() {
    if [ -d "$ROOT/etc/security/limits.d" ]; then
        exactly document:/etc/security/limits.d/90-distributary.conf "$(limits | document_line -)"
    else
        not_applicable 'logins here do not go through PAM limits'
    fi
}

limits() {
    local who
    echo '# Installed by tuning/tune, stage 60-limits.'
    # The star does not mean root.
    for who in '*' root; do
        echo "$who - nofile $(value nofile)"
        echo "$who - memlock $(value memlock)"
    done
}
