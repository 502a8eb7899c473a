#!/usr/bin/env bash
# What health checks cost, how soon they act, and what a flood does to them (docs/health.md).
#
#   benches/probes.sh [PROGRAM]        the release binary when not said
#
#   attacker 10.0.8.2 ─── eth1 director eth0 10.0.0.2 ─── 10.0.0.11 … 10.0.0.20 farm
#                                                          VIPs 10.1.0.1 … on lo, nginx and `tunlb decap`
#
# FLOOD_SECONDS (600): how long each flood lasts; PHASES (cost times floods): what is done. Needs root, nginx, nft and
# python3; runs in namespaces of its own.
set -euo pipefail
# shellcheck source=netns-scripts/lib.sh
. "$(dirname "$0")/../netns-scripts/lib.sh"

FLOOD_SECONDS=${FLOOD_SECONDS:-600}
PHASES=${PHASES:-cost times floods}
MEASURE_SECONDS=20
BACKENDS=10

main() {
  [ -z "${1:-}" ] || export TUNLB=$1
  need nginx:nginx nft:nftables ss:iproute2 python3:python3
  find_tunlb
  enter_lab "$0" "$@"
  build_network
  start_farm
  case " $PHASES " in *" cost "*) costs ;; esac
  case " $PHASES " in *" times "*) times ;; esac
  case " $PHASES " in *" floods "*) floods ;; esac
}

costs() {
  local before accepts
  before=$(accepted)
  cost '1000 tcp probes a second' 10 100ms 'kind = "tcp"'
  accepts=$(($(accepted) - before - 1))
  say "connections of tcp probes that accept() returned: $accepts; half-open on the backends: $(half_open)"
  [ "$accepts" = 0 ] || fail 'a service heard of a tcp probe'
  wait_for 5 'no half-open connection' none_half_open
  cost '100 http probes a second' 10 1s 'kind = "http"'
}

floods() {
  flood 'SYN flood at full speed' other
  flood 'the same, and workers that get the CPU last' idle
}

build_network() {
  local host number
  for host in director farm attacker; do add_host "$host"; done
  cable director eth0 farm eth0
  cable director eth1 attacker eth0
  on director ip addr add 10.0.0.2/24 dev eth0
  on director ip addr add 10.0.8.1/24 dev eth1
  on attacker ip addr add 10.0.8.2/24 dev eth0
  on attacker ip route add default via 10.0.8.1
  set_sysctl director net.ipv4.ip_forward=1
  for ((number = 11; number < 11 + BACKENDS; number++)); do on farm ip addr add "10.0.0.$number/24" dev eth0; done
  on farm ip route add blackhole default # where answers to the flood go
  set_sysctl farm net.ipv4.tcp_syncookies=2
}

# A web server for all VIPs, and the end of all tunnels.
start_farm() {
  local vips=() number
  for ((number = 1; number <= 10; number++)); do vips+=(--vip "10.1.0.$number"); done
  start decap farm "$TUNLB" decap --setup --director 10.0.0.2/32 "${vips[@]}"
  wait_for_word decapsulating decap
  start_nginx
}

start_nginx() {
  mkdir -p "$LAB_DIR/nginx"
  cat >"$LAB_DIR/nginx.conf" <<N
daemon off;
user root;
pid $LAB_DIR/nginx/pid;
error_log $LAB_DIR/nginx/errors;
events { worker_connections 4096; }
http {
  access_log $LAB_DIR/nginx/access;
  server { listen 80 backlog=4096; location / { return 200 "well\n"; } }
  server { listen 127.0.0.1:81; location / { stub_status; } }
}
N
  start nginx farm nginx -c "$LAB_DIR/nginx.conf" -e "$LAB_DIR/nginx/errors"
  wait_for 5 'nginx to listen' listens
}

listens() { on farm ss -Hltn 'sport = :80' | grep -q LISTEN; }

# configure VIPS INTERVAL KEYS: so many VIPs on all backends.
configure() {
  local vip backend
  printf '[director]\nhash_key = "5f1d9b0c3a7e42868d21c4b6f09e7a13"\napi = "/run/api.sock"\n'
  for ((vip = 1; vip <= $1; vip++)); do
    printf '[[vip]]\nname = "v%d"\naddress = "10.1.0.%d"\nport = 80\nbackend = [' "$vip" "$vip"
    for ((backend = 11; backend < 11 + BACKENDS; backend++)); do printf '{ address = "10.0.0.%d" },' "$backend"; done
    printf ']\n[vip.health]\ninterval = "%s"\n%s\n' "$2" "$3"
  done
}

start_director() {
  configure "$@" >/run/probes.toml
  start director director "$TUNLB" run -c /run/probes.toml
  wait_for_word ': forwarding ' director
}

# thread NAME: the id of that thread of the director.
thread() {
  local folder
  for folder in "/proc/${LAB_PIDS[director]}/task"/*; do
    if [ "$(cat "$folder/comm")" = "$1" ]; then basename "$folder"; fi
  done
}

# cpu_nanoseconds THREAD: on a CPU so far.
cpu_nanoseconds() { cut -d ' ' -f 1 "/proc/${LAB_PIDS[director]}/task/$1/schedstat"; }

probes_sent() { device_counter director tunlb0p tx_packets; }

results() {
  on director curl --silent --unix-socket /run/api.sock http://tunlb/v1/status | python3 -c '
import json, sys, collections
status = json.load(sys.stdin)
backends = [backend for vip in status["vips"] for backend in vip["backends"]]
print(dict(collections.Counter(backend["health"]["status"] for backend in backends)),
      "changes", sum(backend["health"]["changes"] for backend in backends))'
}

# cost WHAT VIPS INTERVAL KEYS
cost() {
  local what=$1 id before after packets started
  shift
  start_director "$@"
  sleep 3 # the first round
  id=$(thread tunlb-health)
  packets=$(probes_sent) before=$(cpu_nanoseconds "$id") started=$(date +%s%N)
  sleep "$MEASURE_SECONDS"
  after=$(cpu_nanoseconds "$id") packets=$(($(probes_sent) - packets))
  local elapsed=$(($(date +%s%N) - started))
  say "$what: $(percent $((after - before)) $elapsed) % of a core ($packets packets out of the device in $((elapsed / 1000000)) ms); $(results)"
  stop director
}

percent() { awk -v part="$1" -v whole="$2" 'BEGIN { printf "%.2f", 100 * part / whole }'; }

# Connections that accept() returned to nginx so far, this question's own among them.
accepted() {
  on farm curl --silent http://127.0.0.1:81/ | awk 'taken { print $1; exit } /accepts/ { taken = 1 }'
}

# half_open: connections on the backends that wait for the end of their handshake.
half_open() { on farm ss -Hntan state syn-recv | wc -l; }

none_half_open() { [ "$(half_open)" = 0 ]; }

# How soon the backends of a dead service leave, and how soon they are back; another VIP shows that it is no fault of
# the director. Interval 1 s, timeout 500 ms, fall 3, rise 2.
times() {
  local round died alive
  BACKENDS=2 start_director 2 1s $'timeout = "500ms"\nfall = 3\nrise = 2\non_unhealthy = "move"'
  sleep 4
  for round in 1 2; do # a third change would be held down as flapping
    died=$(date +%s.%N)
    on farm nft 'add table ip probes; add chain ip probes in { type filter hook input priority 0; }; add rule ip probes in ip saddr 10.0.0.2 ip daddr 10.1.0.1 tcp dport 80 drop'
    wait_for 10 'the backends to be down' down_is 2
    alive=$(date +%s.%N)
    on farm nft delete table ip probes
    wait_for 10 'the backends to be back' down_is 0
    say "round $round: down after $(told_after "$died" ': unhealthy: ') (at most 3500 ms and 100), back after $(told_after "$alive" ': healthy: ') (at most 2000 ms and 100)"
  done
  stop director
}

# told_after MOMENT WORDS: how long after it the director acted, for each backend, by its events.
told_after() {
  { on director curl --silent --max-time 1 --unix-socket /run/api.sock 'http://tunlb/v1/events?since=0' || true; } |
    python3 -c 'import datetime, json, sys
since, words = float(sys.argv[1]), sys.argv[2]
events = [json.loads(line) for line in sys.stdin]
times = [datetime.datetime.fromisoformat(event["at"].replace("Z", "+00:00")).timestamp() - since
         for event in events if words in event["text"] and "in a row" in event["text"]]
print(", ".join(f"{1000 * time:.0f} ms" for time in times if time > 0))' "$@"
}

down_is() {
  on director curl --silent --unix-socket /run/api.sock http://tunlb/v1/status |
    python3 -c 'import json, sys
down = sum(backend["health"]["status"] == "unhealthy" for vip in json.load(sys.stdin)["vips"] for backend in vip["backends"])
sys.exit(down != int(sys.argv[1]))' "$1"
}

# flood WHAT other|idle: SYNs from spoofed sources to a VIP; no backend may change.
flood() {
  local worker before after drops deadline
  start_director 3 1s 'timeout = "500ms"'
  sleep 5
  if [ "$2" = idle ]; then
    for worker in $(workers); do chrt --idle --pid 0 "$worker"; done
  fi
  # The flood is to reach backends that bear it, or they would be down: it ends at their doors, by its inner source.
  on farm nft 'add table ip flood; add chain ip flood in { type filter hook prerouting priority raw; }; add rule ip flood in @nh,256,16 0xc612 drop'
  start flood attacker python3 -c "$FLOOD" "$FLOOD_SECONDS"
  before=$(device_counter director tunlb0 tx_packets)
  deadline=$((SECONDS + FLOOD_SECONDS + 5))
  until ended flood; do
    [ "$SECONDS" -lt "$deadline" ] || break
    sleep 1
  done
  after=$(device_counter director tunlb0 tx_packets)
  drops=$(on director cat /proc/net/dev | tr : ' ' | awk '$1 == "tunlb0" { print $13 }')
  say "$1: $((after - before)) SYNs read, $drops dropped in the queue; $(results)"
  if grep -q unhealthy "$LAB_DIR/director.log"; then
    grep unhealthy "$LAB_DIR/director.log" >&2
    fail 'a healthy backend was marked down'
  fi
  on farm nft delete table ip flood
  stop director
}

workers() {
  local folder
  for folder in "/proc/${LAB_PIDS[director]}/task"/*; do
    case $(cat "$folder/comm") in tunlb-worker* | worker*) basename "$folder" ;; esac
  done
}

FLOOD='
import os, random, socket, struct, sys, time
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)
until = time.monotonic() + int(sys.argv[1])
packets = []
for number in range(4096):
    source = struct.pack("!I", 0xC6120000 | random.getrandbits(16))
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0x4000, 64, 6, 0) + source + socket.inet_aton("10.1.0.1")
    tcp = struct.pack("!HHIIBBHHH", random.randrange(1024, 65536), 80, random.getrandbits(32), 0, 0x50, 2, 1024, 0, 0)
    words = struct.unpack("!16H", source + ip[16:20] + struct.pack("!HH", 6, len(tcp)) + tcp)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    packets.append(ip + tcp[:16] + struct.pack("!H", ~total & 0xFFFF) + tcp[18:])
raw.connect(("10.1.0.1", 0))
sent = 0
while time.monotonic() < until:
    for packet in packets:
        try:
            raw.send(packet)
            sent += 1
        except OSError:
            pass
print(sent)
'

main "$@"
