#!/bin/sh
# What the packages do around installation, upgrade and removal. The Debian package and the RPM run
# the same steps: /usr/lib/evenkeel/maintain STEP.
set -e

storage=/var/lib/evenkeel
service=evenkeel.service
sockets="evenkeel.socket evenkeel-webhook.socket"
removed=$storage/removed
# Longer than evenkeel needs to start or to revert its leases.
patience=90

say() { echo "evenkeel: $*" >&2; }

# Without a running systemd, as in a chroot or an image build, no unit can be started or stopped.
has_systemd() { [ -d /run/systemd/system ]; }

is_active() { systemctl --quiet is-active "$service"; }

main_pid() { systemctl show --value --property=MainPID "$service"; }

# The numbers of the leases, of the daemon or in its ledger; empty without any.
leases() {
    [ -e "$storage/ledger.db" ] || return 0
    if found=$(/usr/bin/evenkeel leases --output=json --storage.path="$storage" 2>/dev/null); then
        echo "$found" | grep -o '"id": *[0-9]*' | tr -dc '0-9\n' | paste -sd ' '
    else
        echo unknown
    fi
}

# A start that is under way may be one of the former program. The next start of systemd's own is one of the new program.
wait_for_start() {
    waited=0
    while [ "$(systemctl show --value --property=ActiveState "$service")" = activating ] &&
        [ "$(systemctl show --value --property=SubState "$service")" != auto-restart ] &&
        [ "$waited" -lt "$patience" ]; do
        sleep 1
        waited=$((waited + 1))
    done
}

# A new daemon takes over the leases of the former one, so that nothing is reverted meanwhile.
hand_over() {
    before=$(main_pid)
    systemctl kill --kill-who=main --signal=SIGUSR1 "$service"
    waited=0
    # Restart= starts the new program. The pid is 0 in between.
    while ! is_active || [ "$(main_pid)" = "$before" ]; do
        if [ "$waited" -ge "$patience" ]; then
            say "the daemon did not start again within $patience s; see: systemctl status $service"
            return 1
        fi
        sleep 1
        waited=$((waited + 1))
    done
}

# The status by which Debian's policy-rc.d forbids the start of services during an installation.
forbidden=101

start() {
    if [ -x /usr/sbin/policy-rc.d ]; then
        status=0
        /usr/sbin/policy-rc.d "$service" start >/dev/null 2>&1 || status=$?
        if [ "$status" = "$forbidden" ]; then
            say "not started, because policy-rc.d forbids it"
            return
        fi
    fi
    systemctl start "$service" || say "the daemon did not start; see: systemctl status $service"
}

case "$1" in
    # After the files are in place.
    installed)
        if command -v systemd-sysusers >/dev/null; then systemd-sysusers evenkeel.conf; fi
        if command -v systemd-tmpfiles >/dev/null; then systemd-tmpfiles --create evenkeel.conf || true; fi
        has_systemd || exit 0
        systemctl daemon-reload
        wait_for_start
        if is_active; then
            hand_over
        elif [ -e "$removed" ] && systemctl --quiet is-enabled "$service"; then
            start
        fi
        rm -f "$removed"
        ;;
    # After the first installation. In dry-run, which is the default, evenkeel only samples and reports.
    start)
        has_systemd || exit 0
        systemctl --quiet enable "$service"
        start
        ;;
    # Before the files go. evenkeel puts everything back first, also where `on_exit: keep` keeps it at other exits.
    restore)
        has_systemd || exit 0
        if ! is_active && [ -n "$(leases)" ]; then
            say "reverting leases of an earlier run"
            systemctl start "$service" || true
        fi
        if is_active; then
            waited=0
            # Again, because a busy daemon may not answer at once, and an allocator may answer later.
            while [ -n "$(leases)" ] && [ "$waited" -lt 30 ]; do
                /usr/bin/evenkeel release --all --storage.path="$storage" >/dev/null 2>&1 || true
                sleep 1
                waited=$((waited + 1))
            done
        fi
        # shellcheck disable=SC2086
        systemctl stop "$service" $sockets
        left=$(leases)
        if [ -n "$left" ]; then
            say "not reverted: leases $left"
            say "the package stays until they are: run 'evenkeel leases' and 'evenkeel release NUMBER', twice to drop one"
            systemctl start "$service" || true
            exit 1
        fi
        # For an installation that follows: the daemon ran before.
        touch "$removed"
        ;;
    *)
        say "unknown step '$1'; expected installed, start or restore"
        exit 2
        ;;
esac
