#!/usr/bin/env bash
# katran-241.sh - "Real Server doesn't send response to user" (katran's issue 241), cause and mend.
#
#   31.3.7.0/24, one Ethernet segment
#   ──────┬──────────────────────┬──────────────────────┬──────
#      client                 director               backend
#      31.3.7.140             31.3.7.141             31.3.7.150, a service on the VIP 31.3.7.2:22
#
#   a request:  client → director ═ tunnel ═ backend: eth0, then the tunnel device
#   its reply:  backend: eth0 → client
#
# With strict rp_filter the backend's kernel asks, for each packet that comes out of the tunnel:
# would I reach its source by the device it came in by? The client is reached by eth0, and the
# packet came in by the tunnel device. So it is dropped without a word, as reported: the IPIP
# packets arrive, and no SYN-ACK leaves. The report's service is ssh; here HTTP stands on its port.
#
# Three phases, each asserted: it works; strict rp_filter breaks it in just that way; rp_filter 0
# mends it. See lib.sh for what it needs, its environment and its exit codes.
set -euo pipefail
# shellcheck source=netns-scripts/lib.sh
. "$(dirname "$0")/lib.sh"

CLIENT=31.3.7.140
VIP=31.3.7.2
DIRECTOR=31.3.7.141
BACKEND=31.3.7.150
PORT=22
# shellcheck disable=SC2034 # read by lib.sh: `tunlb decap --setup` would set rp_filter right at once
BY_HAND=1

main() {
  no_arguments "$@"
  need_commands
  find_tunlb
  enter_lab "$0" "$@"

  build_network
  start_backend backend "$VIP" "$PORT" "$DIRECTOR"
  start director director "$TUNLB" run --vip "$VIP:$PORT/tcp" --backend "$BACKEND" --setup
  wait_for_backends backend
  wait_for_word forwarding director
  say "The tunnel ends on the backend in $(tunnel_text)."
  say

  works "1. rp_filter 0 on the backend"
  fails_as_reported "2. strict rp_filter on the backend"
  works "3. rp_filter 0 again"
  stop director
  say "OK: strict rp_filter on the backend reproduces katran's issue 241, and rp_filter 0 mends it."
}

build_network() {
  local host
  for host in client director backend switch; do add_host "$host"; done
  for host in client director backend; do cable "$host" eth0 switch "to-$host"; done
  add_switch switch segment to-client to-director to-backend
  on client ip addr add "$CLIENT/24" dev eth0
  on director ip addr add "$DIRECTOR/24" dev eth0
  on backend ip addr add "$BACKEND/24" dev eth0
  on client ip route add "$VIP/32" via "$DIRECTOR"
}

# ---------------------------------------------------------------------------------------- phases

works() {
  say "$1"
  set_rp_filter 0
  observe "$((10 * LAB_SLOW))"
  [ "$CURL_CODE" = 0 ] || fail "the connection should work; curl ended with code $CURL_CODE"
  [ "$SYN_ACKS" -ge 1 ] || fail "the client got an answer, but no SYN-ACK left the backend's eth0"
  [ "$DROPS" = 0 ] || fail "rp_filter is off, but it dropped $DROPS packets"
  show_findings "the client got its answer"
}

fails_as_reported() {
  say "$1"
  set_rp_filter 1
  observe 2 # the client repeats its SYN after one second
  [ "$CURL_CODE" = 28 ] || fail "the connection should time out (28); curl ended with code $CURL_CODE"
  [ "$SYNS" -ge 1 ] || fail "no IPIP packet arrived at the backend"
  [ "$DEVICE_PACKETS" -ge 1 ] || fail "$TUNNEL delivered no inner packet"
  [ "$SYN_ACKS" = 0 ] || fail "$SYN_ACKS SYN-ACKs left the backend"
  [ "$DROPS" -ge 1 ] || fail "TcpExtIPReversePathFilter did not move"
  show_findings "the client timed out"
}

# Strict means 1 as the larger of `all` and the device's own value.
set_rp_filter() {
  set_sysctl backend "net.ipv4.conf.all.rp_filter=$1" "net.ipv4.conf.$TUNNEL.rp_filter=$1"
}

# observe SECONDS: the client tries to connect, for so long. Sets CURL_CODE, and what the backend
# saw meanwhile: SYNS and SYN_ACKS on eth0, DEVICE_PACKETS out of the tunnel, DROPS by rp_filter.
observe() {
  local device_packets drops
  start watch backend "$LAB_ROOT/netns-scripts/watch.py" eth0
  wait_for_word watching watch
  device_packets=$(device_counter backend "$TUNNEL" rx_packets)
  drops=$(kernel_counter backend netstat TcpExt IPReversePathFilter)

  CURL_CODE=0
  on client curl --silent --fail --output /dev/null --connect-timeout "$1" \
    --max-time $((20 * LAB_SLOW)) "http://$VIP:$PORT/" || CURL_CODE=$?
  stop watch

  DEVICE_PACKETS=$(($(device_counter backend "$TUNNEL" rx_packets) - device_packets))
  DROPS=$(($(kernel_counter backend netstat TcpExt IPReversePathFilter) - drops))
  SYNS=$(grep -c "^in  IPIP $DIRECTOR > $BACKEND: TCP $CLIENT:[0-9]* > $VIP:$PORT \[S\]" "$LAB_DIR/watch.out") || :
  SYN_ACKS=$(grep -c "^out TCP $VIP:$PORT > $CLIENT:[0-9]* \[S\.\]" "$LAB_DIR/watch.out") || :
}

show_findings() {
  say "   the backend's eth0, first packets:"
  grep -m 3 IPIP -A 1 "$LAB_DIR/watch.out" | head -n 3 | sed 's/^/     /'
  printf '   SYNs that arrived in a tunnel %d; packets out of %s %d; SYN-ACKs that left %d; TcpExtIPReversePathFilter +%d\n' \
    "$SYNS" "$TUNNEL" "$DEVICE_PACKETS" "$SYN_ACKS" "$DROPS"
  say "   → $1"
  say
}

main "$@"
