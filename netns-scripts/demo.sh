#!/usr/bin/env bash
# demo.sh - tunlb's main job on real packets, on one machine. Builds tunlb first, which takes a few minutes
# the first time; then it takes about five seconds.
#
#   client ──────────── router ──────────── director        the VIP 10.0.0.100 is routed
#   198.51.100.10       │    │              10.0.0.2        to the director only
#                       │    │
#        10.0.1.0/24 ───┤    └─── 10.0.2.0/24
#                 ┌─────┴───┐          │
#             backend-1  backend-2  backend-3               each: an HTTP server on the VIP
#             10.0.1.11  10.0.1.12  10.0.2.13
#
#   a request:  client → router → director ═ tunnel ═ router ═ backend
#   its reply:  backend → router → client                   (direct server return)
#
# Each host is a network namespace; see lib.sh for what it needs, its environment and its exit codes.
set -euo pipefail
# shellcheck source=netns-scripts/lib.sh
. "$(dirname "$0")/lib.sh"

VIP=10.0.0.100
DIRECTOR=10.0.0.2
REQUESTS=60
DOWNLOAD_BYTES=10000000
declare -A ADDRESS=([backend-1]=10.0.1.11 [backend-2]=10.0.1.12 [backend-3]=10.0.2.13)
BACKENDS=(backend-1 backend-2 backend-3)

main() {
  no_arguments "$@"
  need_commands
  find_tunlb
  enter_lab "$0" "$@"

  build_network
  local host
  for host in "${BACKENDS[@]}"; do start_backend "$host" "$VIP" 80 "$DIRECTOR"; done
  start_director
  wait_for_backends "${BACKENDS[@]}"
  wait_for_word forwarding director
  say "Tunnels end on the backends in $(tunnel_text)."
  say

  read_counters BEFORE
  ask_everyone
  download
  read_counters AFTER
  show_traffic
  stop director
  say "The director's own totals:"
  sed 's/^/  /' "$LAB_DIR/director.out"
  say
  verdict
}

build_network() {
  cable_to_router "$VIP" "${BACKENDS[@]}"
  add_switch router segment-1 to-b1 to-b2
  set_address backend-1 eth0 10.0.1.11/24 10.0.1.1
  set_address backend-2 eth0 10.0.1.12/24 10.0.1.1
  set_address backend-3 eth0 10.0.2.13/24 10.0.2.1
  set_address router segment-1 10.0.1.1/24
  set_address router to-b3 10.0.2.1/24
}

start_director() {
  local arguments=(--vip "$VIP:80/tcp") host
  for host in "${BACKENDS[@]}"; do arguments+=(--backend "${ADDRESS[$host]}"); done
  start director director "$TUNLB" run "${arguments[@]}" --setup
}

# --------------------------------------------------------------------------------------- traffic

ask_everyone() {
  local answers=$LAB_DIR/answers host count silent=
  # One curl, many connections: `Connection: close` makes each request a new flow.
  on client curl --silent --show-error --fail --parallel --parallel-max 20 \
    --max-time $((20 * LAB_SLOW)) --header 'Connection: close' \
    "http://$VIP/?[1-$REQUESTS]" >"$answers" 2>"$LAB_DIR/curl.log" ||
    fail "a request failed (curl's code $?)"
  say "Who answered $REQUESTS requests to http://$VIP/, each a new connection:"
  for host in "${BACKENDS[@]}"; do
    count=$(grep -cx "$host" "$answers") || silent="$silent $host"
    printf '  %-10s %-12s %6d\n' "$host" "${ADDRESS[$host]}" "$count"
  done
  say
  [ "$(wc -l <"$answers")" = "$REQUESTS" ] || fail "$(wc -l <"$answers") of $REQUESTS requests were answered"
  [ -z "$silent" ] || fail "no request reached:$silent"
}

download() {
  local received expected
  received=$(on client curl --silent --show-error --fail --max-time $((30 * LAB_SLOW)) \
    "http://$VIP/bytes/$DOWNLOAD_BYTES" | sha256sum) || fail "the download failed"
  expected=$(download_digest "$DOWNLOAD_BYTES")
  [ "$received" = "$expected" ] || fail "the download arrived damaged"
}

# -------------------------------------------------------------------------------------- counters

declare -A BEFORE=() AFTER=()

# read_counters BEFORE|AFTER: of the two devices that everything the client says must pass.
# shellcheck disable=SC2034  # `reading` is another name of that array
read_counters() {
  local -n reading=$1
  local host counter
  for host in client director; do
    for counter in rx_packets rx_bytes tx_packets tx_bytes; do
      reading["$host $counter"]=$(device_counter "$host" eth0 "$counter")
    done
    reading["$host icmp"]=$(kernel_counter "$host" snmp Icmp InMsgs)
  done
}

# traffic HOST COUNTER: what passed between the two readings.
traffic() { echo "$((AFTER["$1 $2"] - BEFORE["$1 $2"]))"; }

# replies_seen packets|bytes: by the director. The client sends to the VIP only, and all of it goes
# to the director; what the director received beyond that would be replies, except for ICMP
# messages, which are counted apart, and a few ARP exchanges with the router. The replies to the
# smallest HTTP request are five packets.
replies_seen() {
  local packets=$(($(traffic director rx_packets) - $(traffic client tx_packets) - $(traffic director icmp)))
  if [ "$packets" -lt 5 ]; then echo 0; return; fi
  echo "$(($(traffic director "rx_$1") - $(traffic client "tx_$1")))"
}

# bypassed packets|bytes
bypassed() { echo "$(($(traffic client "rx_$1") - $(replies_seen "$1")))"; }

show_traffic() {
  say "What went where (interface counters; with a download of $DOWNLOAD_BYTES bytes):"
  traffic_row "" packets bytes
  traffic_row "the client sent" "$(traffic client tx_packets)" "$(traffic client tx_bytes)"
  traffic_row "the director received" "$(traffic director rx_packets)" "$(traffic director rx_bytes)"
  traffic_row "  and sent on in tunnels" "$(traffic director tx_packets)" "$(traffic director tx_bytes)"
  traffic_row "the client received" "$(traffic client rx_packets)" "$(traffic client rx_bytes)"
  traffic_row "  by way of the director" "$(replies_seen packets)" "$(replies_seen bytes)"
  traffic_row "  bypassing the director" "$(bypassed packets)" "$(bypassed bytes)"
  say
}

traffic_row() { printf '  %-26s %10s %12s\n' "$@"; }

verdict() {
  [ "$(replies_seen packets)" = 0 ] || fail "the director saw $(replies_seen packets) packets of replies"
  [ "$(traffic client rx_bytes)" -gt "$DOWNLOAD_BYTES" ] ||
    fail "the client's interface counted fewer bytes than it downloaded"
  say "OK: ${#BACKENDS[@]} backends answered $REQUESTS requests and a download;" \
    "$(bypassed bytes) bytes of replies bypassed the director, 0 passed through it."
}

main "$@"
