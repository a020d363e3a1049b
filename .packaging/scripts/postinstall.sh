#!/bin/sh
# For deb (configure [OLD-VERSION]) and rpm (1: installed, 2: upgraded).
set -e

case "$1" in
configure) [ -n "$2" ] && upgrade=yes || upgrade=no ;;
1) upgrade=no ;;
2) upgrade=yes ;;
*) exit 0 ;; # the roll-backs of dpkg
esac

# dpkg calls a package that comes back after its removal an upgrade.
if [ -e /var/lib/understudy/.removed ]; then
    upgrade=no
    rm -f /var/lib/understudy/.removed
fi

systemd-sysusers /usr/lib/sysusers.d/understudy.conf
systemd-tmpfiles --create /usr/lib/tmpfiles.d/understudy.conf

if [ "$upgrade" = no ]; then
    # Also without a running systemd, as when an image is built. The agent does
    # not start until there is a configuration.
    systemctl --no-reload enable podman.socket understudy.service >/dev/null 2>&1 ||
        echo "understudy: enable podman.socket and understudy.service yourself" >&2
fi

[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
if [ "$upgrade" = yes ]; then
    # Only the agent: containers and addresses stay, and it takes them up again.
    systemctl try-restart understudy.service || true
    exit 0
fi
systemctl start podman.socket ||
    echo "understudy: podman.socket does not start: see systemctl status podman.socket" >&2
if [ -e /etc/understudy/agent.toml ]; then
    systemctl start understudy.service ||
        echo "understudy: the agent does not start: see understudy agent --check" >&2
else
    echo "understudy: to set up this node, write /etc/understudy/agent.toml (see agent.toml.example there)"
    echo "understudy: then: understudy agent --check && systemctl start understudy"
fi
