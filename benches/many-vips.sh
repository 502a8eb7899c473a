#!/usr/bin/env bash
# many-vips.sh - how long a director takes to start, and to reload, with 10,000 VIPs of 10 backends each.
#
# Three kinds of configuration: the same backends for all VIPs, 10,000 different sets of 100 backends, 100,000
# different backends. In a network namespace of its own; backends have a route and do not exist. Prints per
# kind: seconds from the start of the process to "forwarding", resident memory then and at most (MB), CPU
# seconds, and the seconds of a reload of the unchanged file.
#
# See netns-scripts/lib.sh for its environment and its exit codes. VIPS sets another number of VIPs.
set -euo pipefail
# shellcheck source=netns-scripts/lib.sh
. "$(dirname "$0")/../netns-scripts/lib.sh"

VIPS=${VIPS:-10000}

main() {
  no_arguments "$@"
  need_commands
  find_tunlb
  enter_lab "$0" "$@"
  add_host director
  add_host gateway
  cable director eth0 gateway eth0
  on director ip addr add 192.168.9.1/24 dev eth0
  on director ip route add default via 192.168.9.2
  set_sysctl director net.ipv4.ip_forward=1

  printf '%-28s %8s %8s %8s %8s %8s\n' backends seconds 'RSS MB' 'peak MB' 'CPU s' reload
  local kind
  for kind in same sets distinct; do measure "$kind"; done
}

# measure same|sets|distinct
measure() {
  local file=$LAB_DIR/$1.toml started seconds memory cpu
  configuration "$1" >"$file"
  started=$(now)
  start run director "$TUNLB" run -c "$file"
  wait_for 60 '"forwarding" from run' said_or_ended run forwarding
  seconds=$(since "$started")
  said run forwarding || fail "the director ended: $(tail -n 3 "$LAB_DIR/run.log")"
  memory=$(awk '/^VmRSS/ { rss = $2 } /^VmHWM/ { peak = $2 } END { printf "%8.0f %8.0f", rss / 1024, peak / 1024 }' \
    "/proc/${LAB_PIDS[run]}/status")
  cpu=$(awk -v hz="$(getconf CLK_TCK)" '{ printf "%8.1f", ($14 + $15) / hz }' "/proc/${LAB_PIDS[run]}/stat")
  started=$(now)
  kill -HUP "${LAB_PIDS[run]}"
  wait_for 60 '"reloaded" from run' said_or_ended run reloaded
  printf '%-28s %8s %s %s %8s\n' "$1" "$seconds" "$memory" "$cpu" "$(since "$started")"
  stop run
}

now() { date +%s.%N; }

since() { awk -v from="$1" -v to="$(now)" 'BEGIN { printf "%.2f", to - from }'; }

# configuration same|sets|distinct
configuration() {
  python3 - "$1" "$VIPS" <<'PYTHON'
import ipaddress, random, sys
kind, vips = sys.argv[1], int(sys.argv[2])
first = int(ipaddress.ip_address("10.1.1.0"))
def backends(vip):
    if kind == "same":
        return range(first, first + 10)
    if kind == "distinct":
        return range(first + 10 * vip, first + 10 * vip + 10)
    return (first + host for host in random.Random(vip).sample(range(100), 10))
for vip in range(vips):
    print(f'[[vip]]\naddress = "203.{vip >> 16}.{vip >> 8 & 255}.{vip & 255}"\nport = 80\nprotocol = "tcp"')
    for backend in backends(vip):
        print(f'[[vip.backend]]\naddress = "{ipaddress.ip_address(backend)}"')
PYTHON
}

main "$@"
