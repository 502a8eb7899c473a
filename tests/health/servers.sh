#!/usr/bin/env bash
# servers.sh - health checks against real servers: nginx, haproxy, unbound, knot. Each fault alone has the result, the
# cause and the doctor's rows that are true of it, in `tunlb status` and in `tunlb probe`.
#
#   10.0.1.0/24, one Ethernet segment
#   ──────┬──────────────┬──────────────┬──────
#      director        b1             b2
#      10.0.1.2        10.0.1.11      10.0.1.12, the VIP 10.0.0.100 on lo, a decapsulator, all servers
#
# The faults are b1's; b2 shows that nobody else is blamed. Needs nginx-light haproxy unbound knot openssl beside what every
# lab needs; see lib.sh for its environment and its exit codes. Takes under 90 s.
set -euo pipefail
# shellcheck source=netns-scripts/lib.sh
. "$(dirname "$0")/../../netns-scripts/lib.sh"

VIP=10.0.0.100
DIRECTOR=10.0.1.2
# shellcheck disable=SC2034 # read by lib.sh: the decapsulator leaves what is broken as it is
BY_HAND=1 TUNLB_DECAP=1
declare -A ADDRESS=([b1]=10.0.1.11 [b2]=10.0.1.12)
FAST='interval = "200ms"
timeout = "500ms"
rise = 2
fall = 3'
told=0

main() {
  no_arguments "$@"
  need_commands
  need nginx:nginx-light haproxy:haproxy unbound:unbound knotd:knot openssl:openssl jq:jq
  export CARGO_FEATURES=https # what lib.sh builds with
  find_tunlb
  "$TUNLB" --version | grep -q https || die "$TUNLB was built without the feature https"
  enter_lab "$0" "$@"
  build_network
  certificates
  for host in b1 b2; do start_servers "$host"; done
  wait_for_backends b1 b2
  configure >"$LAB_DIR/tunlb.toml"
  start director director "$TUNLB" run -c "$LAB_DIR/tunlb.toml" --setup
  wait_for_word forwarding director

  every_kind_is_healthy
  faults_of_answers
  faults_of_the_server
  faults_of_certificates
  stop director
  say "OK: $told faults told as they are."
}

build_network() {
  local host
  for host in director b1 b2 switch; do add_host "$host"; done
  for host in director b1 b2; do cable "$host" eth0 switch "to-$host"; done
  add_switch switch segment to-director to-b1 to-b2
  on director ip addr add "$DIRECTOR/24" dev eth0
  for host in b1 b2; do on "$host" ip addr add "${ADDRESS[$host]}/24" dev eth0; done
}

# good.pem for www.example.net, expired.pem for the same, both with their keys, and ca.pem, which signed them.
certificates() {
  local key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
  (
    cd "$LAB_DIR"
    openssl req -x509 "${key[@]}" -keyout ca.key -out ca.pem -subj /CN=lab -days 30
    issue good "$(date -u -d '-1 day' +%Y%m%d%H%M%SZ)" "$(date -u -d '+30 days' +%Y%m%d%H%M%SZ)"
    issue expired 20200101000000Z 20200201000000Z
  ) >"$LAB_DIR/openssl.log" 2>&1 || fail "no certificates"
}

# issue NAME START END: `openssl x509` cannot name an end in the past, `openssl ca` can.
issue() {
  openssl req "${key[@]}" -keyout "$1.key" -out "$1.csr" -subj /CN=www.example.net
  : >"$1.db"
  printf '%s\n' '[ca]' 'default_ca = lab' '[lab]' "database = $1.db" 'new_certs_dir = .' 'default_md = sha256' \
    'policy = any' 'rand_serial = yes' 'x509_extensions = server' '[any]' 'commonName = supplied' '[server]' \
    'subjectAltName = DNS:www.example.net' 'basicConstraints = CA:FALSE' >"$1.conf"
  openssl ca -batch -config "$1.conf" -cert ca.pem -keyfile ca.key -in "$1.csr" -out "$1.crt" -notext \
    -startdate "$2" -enddate "$3"
  cat "$1.crt" "$1.key" >"$1.pem"
}

start_servers() {
  local host=$1 folder=$LAB_DIR/$1
  mkdir -p "$folder"/{nginx,knot}
  start_backend "$host" "$VIP" 7 "$DIRECTOR"
  nginx_configuration >"$folder/nginx.conf"
  start "nginx-$host" "$host" nginx -p "$folder/nginx" -e stderr -c "$folder/nginx.conf"
  haproxy_configuration "$host" >"$folder/haproxy.cfg"
  start "haproxy-$host" "$host" haproxy -db -f "$folder/haproxy.cfg"
  unbound_configuration >"$folder/unbound.conf"
  start "unbound-$host" "$host" unbound -d -c "$folder/unbound.conf"
  zone >"$folder/knot/example.test.zone"
  knot_configuration "$folder/knot" >"$folder/knot.conf"
  start "knot-$host" "$host" knotd -c "$folder/knot.conf"
}

nginx_configuration() {
  cat <<NGINX
daemon off; user root; worker_processes 1; pid nginx.pid;
events { worker_connections 64; }
http {
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server {
    listen $VIP:80 backlog=1;
    location / { return 200 "it works\n"; }
    location /sick { return 500 "oh no\n"; }
    location /loop { return 302 /loop; }
  }
  server { listen $VIP:443 ssl default_server; ssl_reject_handshake on; }
  server {
    listen $VIP:443 ssl; server_name www.example.net;
    ssl_certificate $LAB_DIR/good.pem; ssl_certificate_key $LAB_DIR/good.pem;
    location / { return 200 "it works\n"; }
  }
  server {
    listen $VIP:444 ssl;
    ssl_certificate $LAB_DIR/expired.pem; ssl_certificate_key $LAB_DIR/expired.pem;
    location / { return 200 "it works\n"; }
  }
}
NGINX
}

haproxy_configuration() {
  cat <<HAPROXY
defaults
  mode http
  timeout client 5s
  timeout connect 5s
  timeout server 5s
frontend web
  bind $VIP:8080
  http-request return status 503 content-type text/plain string "maintenance" if { path /maintenance }
  http-request return status 200 content-type text/plain string "$1 behind haproxy"
HAPROXY
}

unbound_configuration() {
  cat <<UNBOUND
server:
  interface: $VIP
  access-control: 0.0.0.0/0 allow
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  do-ip6: no
  num-threads: 1
  local-zone: "example.test." static
  local-data: "example.test. 60 IN SOA ns.example.test. admin.example.test. 1 60 60 60 60"
  local-data: "www.example.test. 60 IN A 192.0.2.1"
remote-control:
  control-enable: no
UNBOUND
}

knot_configuration() {
  cat <<KNOT
server:
    rundir: "$1"
    listen: $VIP@5300
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: "$1"
log:
  - target: stderr
    any: warning
zone:
  - domain: example.test
    storage: "$1"
    file: example.test.zone
KNOT
}

zone() {
  cat <<'ZONE'
$ORIGIN example.test.
$TTL 60
@   SOA ns admin 1 60 60 60 60
@   NS  ns
ns  A   192.0.2.53
www A   192.0.2.1
ZONE
}

# vip NAME PORT PROTOCOL KEYS…: with both backends.
vip() {
  printf '[[vip]]\nname = "%s"\naddress = "%s"\nport = %s\nprotocol = "%s"\n' "$1" "$VIP" "$2" "$3"
  printf 'backend = [{ address = "%s" }, { address = "%s" }]\n' "${ADDRESS[b1]}" "${ADDRESS[b2]}"
  printf '[vip.health]\n%s\n' "${@:4}" "$FAST"
}

# A [vip.health] section has one heading.
section() { vip "$@" | awk '$0 != "[vip.health]" || !seen++'; }

configure() {
  printf '[director]\nhash_key = "00112233445566778899aabbccddeeff"\n'
  section tcp 80 tcp 'kind = "tcp"'
  section nginx 1080 tcp 'kind = "http"' 'port = 80' 'status = 200' 'body = "it works"'
  section haproxy 8080 tcp 'kind = "http"' 'path = "/"' 'body = "behind haproxy"'
  section tls 443 tcp 'kind = "tls"' 'host = "www.example.net"'
  section unbound 53 udp 'kind = "dns"' 'query = "www.example.test"' 'type = "A"'
  section knot 5300 udp 'kind = "dns"' 'query = "example.test"' 'type = "SOA"' 'protocol = "tcp"'
  section ping 1007 tcp 'kind = "ping"' 'size = 1400'
}

every_kind_is_healthy() {
  local name
  for name in tcp nginx haproxy tls unbound knot ping; do is "$name" b1 healthy ok; is "$name" b2 healthy ok; done
  look 0 "" "14 of 14 answer"
  say "  healthy: tcp, http (nginx, haproxy), tls, dns (unbound by UDP, knot by TCP), ping"
}

# With another check of the same VIPs; then with the first again.
faults_of_answers() {
  fault "HTTP 500" nginx bad_status "not as it should" "" 'kind = "http"' 'port = 80' 'path = "/sick"'
  fault "HTTP 503 of haproxy" haproxy bad_status "not as it should" "" 'kind = "http"' 'path = "/maintenance"'
  fault "a redirect loop" nginx bad_status "not as it should" "" 'kind = "http"' 'port = 80' 'path = "/loop"' 'status = 200'
  fault "a text that is missing" nginx bad_body "not as it should" "" 'kind = "http"' 'port = 80' 'body = "something else"'
  fault "a TLS alert for another name" tls tls_failed "not as it should" "" 'kind = "tls"' 'host = "other.example.net"'
  fault "TLS where HTTP is" tls bad_answer "not as it should" "" 'kind = "tls"' 'port = 80'
  fault "a name that does not exist" knot bad_answer "not as it should" "" \
    'kind = "dns"' 'query = "nobody.example.test"' 'protocol = "tcp"'
}

# fault DESCRIPTION VIP RESULT WORDS CODE KEYS…: of both backends, by what is asked.
fault() {
  local description=$1 name=$2
  reload_with "$name" "${@:6}"
  is "$name" b1 unhealthy "$3" "$4" "$5"
  look 1 b1 "$4"
  reload_with
  is "$name" b1 healthy ok
  told=$((told + 1))
  say "  $3: $description"
}

# reload_with [VIP KEYS…]: the file with another check for one VIP.
reload_with() {
  configure >"$LAB_DIR/tunlb.toml"
  if [ $# -gt 0 ]; then
    printf '%s\n' "${@:2}" >"$LAB_DIR/keys"
    python3 - "$LAB_DIR/tunlb.toml" "$1" "$LAB_DIR/keys" "$FAST" <<'PYTHON'
import re, sys
path, name, keys, fast = sys.argv[1:]
text = open(path).read().split("[[vip]]")
for at, vip in enumerate(text):
    if f'name = "{name}"' in vip:
        head = vip.split("[vip.health]")[0]
        text[at] = head + "[vip.health]\n" + open(keys).read() + fast + "\n"
open(path, "w").write("[[vip]]".join(text))
PYTHON
  fi
  on director "$TUNLB" reload >"$LAB_DIR/reload.log" 2>&1 || fail "not reloaded"
}

faults_of_the_server() {
  local worker held
  # Stopped: the kernel takes connections until the queue is full.
  worker=$(pgrep -P "${LAB_PIDS[nginx-b1]}")
  kill -STOP "${LAB_PIDS[nginx-b1]}" "$worker"
  is nginx b1 unhealthy no_answer "its service does not answer" B32
  look 1 b1 B32
  told=$((told + 1))
  say "  no_answer (B32): nginx stopped by SIGSTOP"
  start fill b1 python3 -c '
import socket, time
held = [socket.socket() for _ in range(8)]
for one in held:
    one.setblocking(False)
    one.connect_ex(("'"$VIP"'", 80))
print("filled", flush=True)
time.sleep(600)'
  wait_for_word filled fill
  is tcp b1 unhealthy no_answer "its accept queue is full" B32
  look 1 b1 "its accept queue is full"
  told=$((told + 1))
  say "  no_answer (B32): the accept queue of nginx is full"
  kill -CONT "${LAB_PIDS[nginx-b1]}" "$worker"
  stop fill
  is tcp b1 healthy ok
  is nginx b1 healthy ok

  stop haproxy-b1
  is haproxy b1 unhealthy refused "nothing listens on its port" B30
  look 1 b1 B30
  told=$((told + 1))
  say "  refused (B30): haproxy ended"
  stop unbound-b1
  is unbound b1 unhealthy refused "nothing listens on its port" B30
  told=$((told + 1))
  say "  refused (B30): unbound ended"
  for held in tcp nginx tls knot ping haproxy unbound; do is "$held" b2 healthy ok; done
}

# Only the kind https looks at certificates. That of another name than the one asked for: tests/e2e/https.rs.
faults_of_certificates() {
  local verify="verify = \"$LAB_DIR/ca.pem\""
  reload_with tls 'kind = "https"' 'host = "www.example.net"' "$verify"
  is tls b1 healthy ok
  fault "an expired certificate" tls certificate_expired "" "" 'kind = "https"' 'port = 444' 'host = "www.example.net"' "$verify"
}

# is VIP BACKEND STATUS RESULT [WORDS [CODE]]: `tunlb status` comes to say so, with the cause.
is() {
  wait_until 15 says "$@" ||
    fail "$1 on $2 is not $3 ($4): $(on director "$TUNLB" status --json |
      jq -c --arg vip "$1" --arg at "${ADDRESS[$2]}" '.vips[] | select(.name == $vip).backends[] | select(.address == $at).health')"
}

says() {
  on director "$TUNLB" status --json >"$LAB_DIR/status.json" || return 1
  python3 - "$LAB_DIR/status.json" "$1" "${ADDRESS[$2]}" "$3" "$4" "${5:-}" "${6:-}" <<'PYTHON'
import json, sys
path, vip, address, status, result, words, code = sys.argv[1:]
vips = {vip["name"]: vip for vip in json.load(open(path))["vips"]}
backends = {backend["address"]: backend for backend in vips[vip]["backends"]}
health = backends[address]["health"]
cause = health["cause"] or {"text": "", "codes": []}
right = (health["status"], health["result"]) == (status, result) and words in cause["text"]
sys.exit(not (right and (not code or code in cause["codes"])))
PYTHON
}

# look CODE BACKEND|"" WORDS: `tunlb probe` ends with that exit code, and says so.
look() {
  local code=0 arguments=()
  if [ -n "$2" ]; then arguments=(--backend "${ADDRESS[$2]}"); fi
  on director "$TUNLB" probe -c "$LAB_DIR/tunlb.toml" "${arguments[@]}" >"$LAB_DIR/probe.log" 2>&1 || code=$?
  [ "$code" = "$1" ] || fail "tunlb probe ended with code $code"
  grep -qF -- "$3" "$LAB_DIR/probe.log" || fail "tunlb probe does not say \"$3\": $(cat "$LAB_DIR/probe.log")"
}

main "$@"
