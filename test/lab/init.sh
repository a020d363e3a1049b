#!/bin/bash
# PID 1 of a node until systemd takes over: already in the node's own namespaces (mount, UTS, IPC, PID,
# network, cgroup), still on the machine's root. Puts the node's file systems together.
#   init.sh NAME ROOT NODE_DIR SHARE_DIR LOOP_DEVICE FS
set -euo pipefail
name=$1 root=$2 dir=$3 share=$4 disk=$5 fs=$6

mount --make-rprivate /
# Volatile: the end of the node must not wait for its root file system to be written back.
rm -rf "$dir/work/work/incompat"
mount -t overlay overlay -o "volatile,lowerdir=$root,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
cd "$dir/root"

mount -t proc proc proc
# What is not the node's own must not be writable: kernel settings other than the network's belong to
# the machine, and Pacemaker's panic would write to sysrq-trigger and restart the machine.
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
cat /proc/sys/kernel/random/uuid >"$dir/boot_id" # every life of a node is a boot of its own
mount --bind "$dir/boot_id" proc/sys/kernel/random/boot_id
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup

mount -t tmpfs -o mode=755 tmpfs dev
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/fuse dev/
mkdir -p dev/net dev/pts dev/shm
cp -a /dev/net/tun dev/net/
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
[ ! -e proc/sysrq-trigger ] || mount --bind /dev/null proc/sysrq-trigger

mount --bind "$share" lab
mount -t "$fs" "$disk" mnt/disk
mkdir -p mnt/disk/containers mnt/disk/understudy var/lib/containers var/lib/understudy
mount --bind mnt/disk/containers var/lib/containers
mount --bind mnt/disk/understudy var/lib/understudy

hostname "$name"
mkdir -p run/oldroot
pivot_root . run/oldroot
umount -l /run/oldroot
rmdir /run/oldroot
mount --make-rshared /
exec setpriv --bounding-set=-sys_time,-sys_module,-sys_rawio,-syslog --inh-caps=-all \
  env -i container=lab NOTIFY_SOCKET="/lab/notify-$name" PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --log-target=journal
