#!/bin/bash
# Installs what building, testing and the lab need on Debian, and nothing that is
# there already.
set -euo pipefail
packages=(
  git ca-certificates gcc libc6-dev # Go's modules and its race detector
  rsync openssh-client openssh-server openssh-sftp-server # wire: real peers; treetest: a judge that is not ours
  xfsprogs e2fsprogs btrfs-progs mount util-linux # file systems of tests and of the lab's nodes
  sqlite3 # replication: a database that writes through mappings
  mmdebstrap iproute2 nftables # the lab: nodes, cables
)
missing=()
for p in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$p" 2>/dev/null)" = "ii " ] || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0
[ "$(id -u)" -eq 0 ] || { echo "these packages are needed: ${missing[*]}; run this as root, or install them with apt-get" >&2; exit 1; }
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# The machine is not to run services because of us: openssh-server is here for its program.
printf '#!/bin/sh\nexit 101\n' > /tmp/understudy-policy.$$ && chmod 755 /tmp/understudy-policy.$$
if [ ! -e /usr/sbin/policy-rc.d ]; then
  mv /tmp/understudy-policy.$$ /usr/sbin/policy-rc.d
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
else
  rm /tmp/understudy-policy.$$
fi
apt-get update -q
apt-get install -y -q --no-install-recommends "${missing[@]}"
