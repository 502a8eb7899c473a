#!/usr/bin/env bash
# xdp.sh - the XDP data path on real packets: a director that takes packets in the driver of its one
# interface, and sends them back by it; what the program does not handle goes by the TUN.
#
#   client ──────────── router ──────────── director        the VIP 10.0.0.100
#   198.51.100.10       │    │              10.0.0.2         (XDP on eth0)
#                       │    │
#        10.0.1.0/24 ───┘    └─── 10.0.2.0/24
#              backend-1              backend-2
#              10.0.1.11              10.0.2.12
#
# Needs root of the first user namespace: nobody else may load BPF programs. See lib.sh for the rest of what
# it needs, its environment and its exit codes; TUNLB has to be built with the feature xdp.
set -euo pipefail
# shellcheck source=netns-scripts/lib.sh
. "$(dirname "$0")/lib.sh"

VIP=10.0.0.100
BACKENDS=(backend-1 backend-2)
export CARGO_FEATURES=xdp # what lib.sh builds with
MODE=${XDP_MODE:-native}

main() {
  no_arguments "$@"
  need_commands
  need ethtool:ethtool jq:jq
  [ "$EUID" = 0 ] || die "BPF programs are for root of the first user namespace; run: sudo $(quoted "$0")"
  find_tunlb
  "$TUNLB" --version | grep -q xdp || die "$TUNLB was built without the feature xdp"
  enter_lab "$0" "$@"

  build_network
  local host
  for host in "${BACKENDS[@]}"; do start_backend "$host" "$VIP" 80 10.0.0.2; done
  configure ipip active
  start director director "$TUNLB" run -c "$LAB_DIR/tunlb.toml" --setup
  wait_for_backends "${BACKENDS[@]}"
  wait_for_word forwarding director
  said director "packets are taken by XDP on eth0" || fail "the director does not say that it takes packets by XDP"

  ask_everyone "$VIP"
  taken_by_xdp 300
  reloads_under_transfers
  detached_however_it_ends
  say "OK: packets went by XDP ($MODE mode), and 100 reloads broke no transfer."
}

build_network() {
  cable_to_router "$VIP" "${BACKENDS[@]}"
  set_address backend-1 eth0 10.0.1.11/24 10.0.1.1
  set_address backend-2 eth0 10.0.2.12/24 10.0.2.1
  set_address router to-b1 10.0.1.1/24
  set_address router to-b2 10.0.2.1/24
  # A program sees checksums as a veth leaves them to the device, which a wire never shows; and a veth takes
  # redirected frames only while its other end polls (NAPI).
  on client ethtool -K eth0 tx off >/dev/null
  on router ethtool -K to-director gro on >/dev/null
}

# configure KIND STATE: the tunnels, and the state of backend-1.
configure() {
  cat >"$LAB_DIR/tunlb.toml" <<END
[director]
datapath = "xdp"
interface = "eth0"
xdp_mode = "$MODE"
api = "$LAB_DIR/api.sock"
hash_key = "5b7f7b1d0c3a4e968a2f0d6b9c1e8f47"
encap.kind = "$1"
[[vip]]
name = "web"
address = "$VIP"
health = { kind = "tcp", interval = "1s" }
backend = [{ address = "10.0.1.11", state = "$2" }, { address = "10.0.2.12" }]
END
}

# ask_everyone ADDRESS
ask_everyone() {
  local answers=$LAB_DIR/answers host
  on client curl --silent --show-error --fail --parallel --parallel-max 20 --max-time $((20 * LAB_SLOW)) \
    --header 'Connection: close' "http://$1/?[1-60]" >"$answers" || fail "a request failed (curl's code $?)"
  [ "$(wc -l <"$answers")" = 60 ] || fail "$(wc -l <"$answers") of 60 requests were answered"
  for host in "${BACKENDS[@]}"; do
    grep -qx "$host" "$answers" || fail "no request reached $host"
  done
}

# What the director says of a way of packets, of all time.
packets_by() {
  "$TUNLB" status --json --api "$LAB_DIR/api.sock" | jq ".director.xdp.packets.$1"
}

# taken_by_xdp LEAST
taken_by_xdp() {
  enough() { [ "$(packets_by redirected)" -ge "$LEAST" ]; }
  LEAST=$1
  wait_for 5 "$1 packets that left by XDP" enough
}

reloads_under_transfers() {
  head -c 30000000 /dev/urandom >"$LAB_DIR/body"
  local expected number state transfers=() transfer
  expected=$(sha256sum <"$LAB_DIR/body" | cut -d ' ' -f 1)
  for number in 1 2 3 4; do
    on client curl --silent --show-error --fail --max-time $((60 * LAB_SLOW)) --limit-rate 6M \
      --upload-file "$LAB_DIR/body" "http://$VIP/" >"$LAB_DIR/sum-$number" &
    transfers+=($!)
  done
  for number in $(seq 100); do
    state=active
    [ $((number % 2)) = 0 ] || state=draining
    configure ipip "$state"
    "$TUNLB" reload --api "$LAB_DIR/api.sock" >/dev/null || fail "reload $number failed"
  done
  for transfer in "${transfers[@]}"; do wait "$transfer" || fail "a transfer broke (curl's code $?)"; done
  for number in 1 2 3 4; do
    [ "$(cat "$LAB_DIR/sum-$number")" = "$expected" ] || fail "transfer $number arrived damaged"
  done
  say "100 reloads under 4 uploads of 30 MB: none broke."
}

detached_however_it_ends() {
  program() { on director ip -json -details link show eth0 | jq -e '.[0].xdp.prog.id' >/dev/null; }
  gone() { ! program; }
  program || fail "no program on eth0"
  stop director
  wait_for 2 "the program to be detached after SIGTERM" gone
  start director director "$TUNLB" run -c "$LAB_DIR/tunlb.toml" --setup
  wait_for_word forwarding director
  program || fail "no program on eth0 after a restart"
  kill -KILL "${LAB_PIDS[director]}"
  unset "LAB_PIDS[director]"
  wait_for 2 "the program to be detached after SIGKILL" gone
  start director director "$TUNLB" run -c "$LAB_DIR/tunlb.toml" --setup
  wait_for_word forwarding director
  ask_everyone "$VIP"
  stop director
}

main "$@"
