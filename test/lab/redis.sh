#!/bin/bash
# Builds the one layer of the Redis image from Debian packages: the programs and their
# libraries, no shell.
#   redis.sh TARGET.tar
set -euo pipefail
export SOURCE_DATE_EPOCH=0

mmdebstrap --variant=extract --mode=root --format=tar \
  --aptopt='APT::Install-Recommends "false"' \
  --aptopt='Acquire::Retries "3"' \
  --dpkgopt='path-exclude=/usr/share/*' \
  --include=redis-server \
  --setup-hook='ln -s usr/lib64 "$1/lib64"' \
  trixie "$1"
