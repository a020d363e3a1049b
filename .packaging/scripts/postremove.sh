#!/bin/sh
# For deb (remove | purge | upgrade …) and rpm (0: removed, 1: upgraded).
set -e

case "$1" in
remove | purge | 0) ;;
*) exit 0 ;;
esac

if [ "$1" = remove ] && [ -d /var/lib/understudy ]; then
    touch /var/lib/understudy/.removed # for postinstall.sh
fi
[ -d /run/systemd/system ] && systemctl daemon-reload || true
if [ "$1" != remove ]; then
    rm -f /var/lib/understudy/.removed
    # Replicas and history may be all that is left of a service: nobody but a
    # person removes them.
    echo "understudy: kept: /var/lib/understudy (replicas and history), /etc/understudy, the user understudy"
    echo "understudy: to remove them: rm -r /var/lib/understudy /etc/understudy; userdel understudy"
fi
