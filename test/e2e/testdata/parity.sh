#!/bin/bash
# The corpus of the parity test: what people make with podman, made on one node. Every
# flag that is carried is in here at least once, as far as the lab's kernel can run it
# (it has no memory, cpu and pids controllers, no ipvlan, no project quotas, and lets nobody
# raise a capability that it lacks, as --privileged does).
set -euo pipefail
image=localhost/busybox:1

net() { podman network create "$@" >/dev/null; }
net --subnet 203.0.113.0/28 --gateway 203.0.113.1 --ip-range 203.0.113.8/29 --label app=shop --label empty= par-plain
net --subnet 203.0.113.16/28 --opt isolate=strict --opt mtu=1400 par-isolated
net --subnet 203.0.113.32/28 --internal par-internal
net --subnet 203.0.113.48/28 --ipv6 --subnet 2001:db8:77::/64 par-six
net --subnet 203.0.113.64/28 --disable-dns par-nodns
net --subnet 203.0.113.80/28 --dns 192.0.2.53 par-dns
net --subnet 203.0.113.96/28 --interface-name br-parity --opt metric=50 par-bridge
net --driver macvlan --opt parent=eth0 --subnet 203.0.113.112/28 --opt mtu=1400 par-macvlan
net --driver macvlan --opt parent=eth0 --opt mode=bridge --ipam-driver none par-noaddress

vol() { podman volume create "$@" >/dev/null; }
vol --label keep=yes --label team=a par-data
vol --opt o=uid=1000,gid=1001 par-owned
vol --opt type=tmpfs --opt device=tmpfs --opt o=size=2M,nodev,mode=1770 par-memory
mkdir -p /srv/parity/volume /srv/parity/www
vol --opt type=none --opt o=bind --opt device=/srv/parity/volume par-bound
vol --opt type=nfs --opt o=addr=192.0.2.9,vers=4,soft --opt device=:/shared/data par-nfs
vol --opt type=cifs --opt o=username=user,password=pass,domain=WORKGROUP --opt device=//192.0.2.9/share par-cifs
echo hello >/srv/parity/www/index.html
echo bound >/srv/parity/volume/file

printf 'first secret' | podman secret create par-first - >/dev/null
printf 'key \377\000 of bytes' | podman secret create --label kind=key par-bytes - >/dev/null

run() { name=$1; shift; podman create --name "par-$name" "$@" >/dev/null; }
run plain $image
run digest "localhost/busybox@$(podman image inspect --format '{{.Digest}}' $image)"
run command --entrypoint '["sleep"]' $image 100000
run env -e A=1 --env=B='two words' -e EMPTY= --unsetenv FOO --tz UTC --umask 0027 $image
run labels --label app=shop -l single --annotation note=hi $image
run user -u 1000:1000 -w /tmp --group-add 10,20 --passwd-entry 'u:x:1000:1000::/:/bin/sh' $image
run caps --cap-add NET_ADMIN,SYS_PTRACE --cap-drop CHOWN --security-opt no-new-privileges $image
run unconfined --security-opt seccomp=unconfined --security-opt mask=/proc/uptime $image
run limits --ulimit nofile=1024:2048 --ulimit core=0:0 --oom-score-adj 100 --shm-size 32m $image
run sysctl --sysctl net.ipv4.ip_unprivileged_port_start=80 --init $image
run readonly --read-only --tmpfs /scratch:size=1m,mode=1777 --mount type=tmpfs,dst=/more,tmpfs-size=1m $image
run signals --stop-signal SIGKILL --stop-timeout 3 --timeout 100000 $image
run health --health-cmd true --health-interval 30s --health-retries 2 --health-timeout 3s --health-start-period 1s --health-on-failure none $image
run startup --health-cmd true --health-startup-cmd true --health-startup-interval 30s $image
run tty -it $image
run log --log-driver k8s-file --log-opt max-size=10mb $image
run nolog --log-driver none $image
run host --network host --pid host --ipc host --uts host $image
run alone --network none $image
run restart --restart always $image
run cgroups --cgroups no-conmon --cgroupns private --systemd false $image
run ports -p 18081:80 -p 127.0.0.1:18443:443/tcp -p 19000-19002:9000-9002/udp --expose 7000 $image
run names --hostname db.example.com --add-host peer:192.0.2.9 --dns 192.0.2.53 --dns-search example.com --dns-option ndots:2 $image
run nohosts --no-hosts --no-hostname --network par-nodns $image
run static --network par-plain --ip 203.0.113.9 --network-alias web --mac-address 02:42:ac:11:00:09 $image
run several --network par-plain:ip=203.0.113.10,alias=two --network par-six:ip=203.0.113.57,ip6=2001:db8:77::57 --network par-isolated:interface_name=data0,mac=02:42:ac:11:00:10 --network par-internal $image
run later --network par-dns $image
podman network connect --alias late par-bridge par-later
run vlan --network par-macvlan:ip=203.0.113.120,mac=02:42:ac:11:00:20 $image
run layer2 --network par-noaddress $image
run volumes -v par-data:/data -v par-owned:/conf:ro,Z -v par-new:/new:z,nocopy -v /etc/localtime:/etc/localtime:ro $image
run mounts --mount type=volume,src=par-data,dst=/data,ro --mount type=volume,src=par-sub,dst=/sub,subpath=/ --mount type=devpts,dst=/dev/pts2 $image
run chowned --user 1000 -v par-mine:/mine:U $image
run elsewhere -v par-memory:/memory -v par-nfs:/nfs -v par-cifs:/cifs $image
run binds -v /srv/parity/www:/www:ro -v /srv/parity/www:/www2:rw,z -v par-bound:/bound $image
run anonymous -v /anonymous --mount type=volume,dst=/unnamed $image
run secret --secret par-first --secret par-first,type=env,target=PASSWORD --secret par-bytes,target=/etc/key,uid=5,gid=6,mode=0400 $image

podman pod create --name par-pod -p 18091:80 --label app=shop --share net,ipc,uts --hostname pod.example.com --exit-policy stop >/dev/null
run pod-web --pod par-pod --secret par-first $image
run pod-side --pod par-pod -v par-data:/data:ro $image
podman pod create --name par-netpod --infra-name par-netpod-holder --network par-plain:ip=203.0.113.11,alias=podded \
  --network par-six --add-host peer:192.0.2.9 --dns 192.0.2.53 --shm-size 16m --sysctl net.ipv4.ip_unprivileged_port_start=80 \
  -v par-podded:/shared >/dev/null
run netpod-a --pod par-netpod -e A=1 $image
podman pod create --name par-loose --infra=false >/dev/null
run loose-a --pod par-loose --network par-plain $image
