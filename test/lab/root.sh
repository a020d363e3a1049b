#!/bin/bash
# Builds the root file system that every node shares as the read-only lower layer of its overlay.
# Only packages and what must hold for every node belong here: a change of this file means a new
# root (its hash is the cache key). Configuration is in files/, laid over it when a lab is made.
#   root.sh TARGET
set -euo pipefail
target=$1

packages=(
  systemd systemd-sysv dbus procps cron sudo util-linux bsdutils
  iproute2 iptables nftables tcpdump iputils-ping iputils-arping netbase ca-certificates curl jq
  pacemaker pacemaker-cli-utils corosync pcs resource-agents resource-agents-dev fence-agents-common
  libxml2-utils python3-minimal
  podman runc netavark aardvark-dns conmon catatonit uidmap
  openssh-server openssh-client openssh-sftp-server rsync
  xfsprogs e2fsprogs btrfs-progs attr acl
  rpm # beside dpkg: what a user of the rpm would have
  busybox-static docker-registry
)
joined=$(IFS=,; echo "${packages[*]}")

mmdebstrap --variant=minbase --mode=root \
  --aptopt='APT::Install-Recommends "false"' \
  --aptopt='Acquire::Retries "3"' \
  --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --include="$joined" trixie "$target"

in_root() { chroot "$target" "$@"; }

# Debian starts the cluster at boot with a sample configuration of a node called node1: with it in
# place pcs cannot set up a cluster. A node of the lab joins only when it is told to.
in_root systemctl disable corosync pacemaker pcsd pcsd-ruby docker-registry 2>/dev/null || true
rm -f "$target/etc/corosync/corosync.conf"
for unit in podman-restart.service podman-auto-update.timer netavark-dhcp-proxy.socket netavark-dhcp-proxy.service \
  logd.service; do
  in_root systemctl disable "$unit" 2>/dev/null || true
done
in_root systemctl enable ssh.service podman.socket cron.service

# Nothing in a node may touch the machine's kernel, devices or clock; nor wake the disk on its own.
for unit in systemd-modules-load.service systemd-udevd.service systemd-udev-trigger.service \
  systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-logind.service \
  systemd-sysctl.service systemd-random-seed.service systemd-remount-fs.service \
  systemd-timesyncd.service getty.target console-getty.service getty@tty1.service \
  podman-clean-transient.service \
  apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
  fstrim.timer xfs_scrub_all.timer logrotate.timer man-db.timer networking.service nftables.service; do
  ln -sfn /dev/null "$target/etc/systemd/system/$unit"
done

# Every node makes its own identity at its first boot.
rm -f "$target"/etc/ssh/ssh_host_* "$target/etc/machine-id" "$target/var/lib/dbus/machine-id"
rm -rf "$target"/var/cache/apt/* "$target"/var/lib/apt/lists/* "$target"/var/log/*.log
mkdir -p "$target"/var/log/journal "$target"/var/lib/understudy "$target"/lab "$target"/mnt/disk
# The caches that systemd would rebuild at the first boot are fresh.
touch "$target/etc/.updated" "$target/var/.updated"
