#!/bin/bash
# Builds the one layer of the PostgreSQL image from Debian packages.
#   postgres.sh TARGET.tar
set -euo pipefail
export SOURCE_DATE_EPOCH=0

mmdebstrap --variant=minbase --mode=root --format=tar \
  --aptopt='APT::Install-Recommends "false"' \
  --aptopt='Acquire::Retries "3"' \
  --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --essential-hook='mkdir -p "$1/etc/postgresql-common" && echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"' \
  --include=postgresql,tini \
  --customize-hook='cat >"$1/usr/local/bin/postgres-entrypoint" <<"SCRIPT"
#!/bin/sh
# Makes the database at the first start; afterwards only starts it.
set -eu
bin=$(echo /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql/data
mkdir -p "$data" /run/postgresql
chown postgres:postgres "$data" /run/postgresql
chmod 700 "$data"
as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"; }
if [ ! -s "$data/PG_VERSION" ]; then
  # A first start that was cut off left no PG_VERSION, or one without the marker below.
  find "$data" -mindepth 1 -delete
  as_postgres "$bin/initdb" -D "$data" --auth=trust --encoding=UTF8 --locale=C.UTF-8
  echo "host all all all trust" >>"$data/pg_hba.conf"
fi
exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$bin/postgres" -D "$data" -c "listen_addresses=*"
SCRIPT
chmod 755 "$1/usr/local/bin/postgres-entrypoint"' \
  --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/var/log/*' \
  trixie "$1"
