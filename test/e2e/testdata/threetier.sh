#!/bin/bash
# The three tiers of a shop, each on networks of its own, as Quadlet units that systemd
# runs: a web server, an application and a database. Only web and application, and
# application and database, can reach each other.
set -euo pipefail
units=/etc/containers/systemd
mkdir -p $units /srv/shop/app
network() { printf '[Network]\nNetworkName=shop-%s\nSubnet=%s\n%s\n' "$1" "$2" "${3-}" >$units/shop-$1.network; }
network front 203.0.113.160/28
network middle 203.0.113.176/28 Internal=true
network back 203.0.113.192/28 Internal=true
for volume in www data; do printf '[Volume]\nVolumeName=shop-%s\nLabel=app=shop\n' $volume >$units/shop-$volume.volume; done

cat >$units/shop-db.container <<'UNIT'
[Container]
ContainerName=shop-db
Image=localhost/postgres:1
Network=shop-back.network
Volume=shop-data.volume:/var/lib/postgresql/data
[Install]
WantedBy=multi-user.target
UNIT

cat >$units/shop-app.container <<'UNIT'
[Unit]
Requires=shop-db.service
After=shop-db.service
[Container]
ContainerName=shop-app
Image=localhost/postgres:1
Entrypoint=["/usr/bin/tini","--","perl"]
Exec=/app/serve.pl 8091 shop-db
Network=shop-middle.network
Network=shop-back.network
Volume=/srv/shop/app:/app:ro
Secret=shop-user,type=env,target=PGUSER
Environment=NAME="a shop"
[Install]
WantedBy=multi-user.target
UNIT

cat >$units/shop-web.container <<'UNIT'
[Container]
ContainerName=shop-web
Image=localhost/shop-web:1
Exec=httpd -f -p 8090 -h /www
Network=shop-front.network
Network=shop-middle.network
PublishPort=8090:8090
Volume=shop-www.volume:/www
PodmanArgs=--stop-timeout=2
[Install]
WantedBy=multi-user.target
UNIT

# The application: /add?n=5 stores an order, / lists them.
cat >/srv/shop/app/serve.pl <<'PERL'
use strict; use warnings; use IO::Socket::INET; use Time::HiRes ();
$SIG{TERM} = sub { exit 0 };
my ($port, $db) = @ARGV;
my ($psql) = glob '/usr/lib/postgresql/*/bin/psql';
sub sql { my $out = `$psql -h $db -Atc "$_[0]" postgres 2>&1`; return $? ? undef : $out }
Time::HiRes::sleep(0.1) until defined sql('CREATE TABLE IF NOT EXISTS orders (n bigint PRIMARY KEY)');
my $server = IO::Socket::INET->new(LocalPort => $port, Listen => 64, ReuseAddr => 1) or die $!;
while (my $client = $server->accept) {
  my $line = <$client> // ''; while (my $h = <$client>) { last if $h =~ /^\r?\n$/ }
  my $out = $line =~ m{/add\?n=(\d+)} ? sql("INSERT INTO orders VALUES ($1)") : sql('SELECT n FROM orders ORDER BY n');
  print $client defined $out ? "HTTP/1.0 200 OK\r\n\r\n$out" : "HTTP/1.0 500 no\r\n\r\n"; close $client;
}
PERL

podman run --name shop-tmp localhost/busybox:1 dd if=/dev/urandom of=/big bs=1M count=1 2>/dev/null
podman commit -q shop-tmp localhost/shop-web:1 >/dev/null
podman rm shop-tmp >/dev/null
printf postgres | podman secret create shop-user - >/dev/null
systemctl daemon-reload
systemctl start shop-www-volume.service
www=$(podman volume inspect --format '{{.Mountpoint}}' shop-www)
mkdir -p $www/cgi-bin
cat >$www/cgi-bin/order <<'CGI'
#!/bin/sh
# Passes the question on to the application; nothing but its answer is an answer.
out=$(wget -qO- "http://shop-app:8091/$QUERY_STRING") || { printf 'Status: 502 Bad Gateway\r\n\r\n'; exit 0; }
printf 'Content-Type: text/plain\r\n\r\n%s\n' "$out"
CGI
chmod 755 $www/cgi-bin/order
systemctl start shop-app.service shop-web.service
