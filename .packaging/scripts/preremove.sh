#!/bin/sh
# For deb (remove | upgrade NEW-VERSION | …) and rpm (0: removed, 1: upgraded).
set -e

case "$1" in
remove | 0) ;;
*) exit 0 ;; # an upgrade: the new version restarts the agent
esac

for record in /run/understudy/services/*.json; do
    [ -e "$record" ] || continue
    service=${record##*/}
    service=${service%.json}
    echo "understudy: service $service is still on this node. It goes on running, but Pacemaker can neither" >&2
    echo "understudy: watch nor move it any more. Take it out of the cluster: pcs resource delete $service" >&2
done

[ -d /run/systemd/system ] && systemctl stop understudy.service || true
systemctl --no-reload disable understudy.service >/dev/null 2>&1 || true
