#!/usr/bin/env bash
# doctor.sh - `tunlb doctor` on a backend with the real tunl0: each fault alone gives its own code, and
# what is right gives none. Runs in the guest, in /vm.
#
#   10.0.1.0/24, one cable: backend .11 ── gateway .1, which is also the director .2
#   The VIP 10.0.0.100 is on the backend's lo, a service on its port 80; clients are behind the gateway.
#
# See lib.sh for its environment and its exit codes.
set -euo pipefail
# shellcheck source=netns-scripts/lib.sh
. "$(dirname "$0")/netns-scripts/lib.sh"

VIP=10.0.0.100
BACKEND=10.0.1.11
GATEWAY=10.0.1.1
DIRECTOR=10.0.1.2
CLIENT=10.0.9.2
judged=0

main() {
  no_arguments "$@"
  find_tunlb
  enter_lab "$0" "$@"
  build_network

  gives none "everything is right" true true
  faults_of_the_tunnel
  faults_of_the_vip
  faults_of_source_validation
  faults_of_the_way_back_and_the_service
  pairs
  healthy_variants
  mends
  say "OK: $judged of $judged cases judged right."
}

build_network() {
  add_host backend
  add_host gateway
  cable backend eth0 gateway eth0
  on backend ip addr add "$BACKEND/24" dev eth0
  on gateway ip addr add "$GATEWAY/24" dev eth0
  on gateway ip addr add "$DIRECTOR/24" dev eth0
  on backend ip route add default via "$GATEWAY"
  start_backend backend "$VIP" 80 "$DIRECTOR"
  [ "$TUNNEL" = tunl0 ] || die "this kernel has no tunl0"
  wait_for_backends backend
}

faults_of_the_tunnel() {
  gives B2 "tunl0 is down" "ip link set tunl0 down" "ip link set tunl0 up"
  gives B2 "the only tunnel takes another director's packets" \
    "ip link set tunl0 down; ip link add far type ipip remote 192.0.2.9; ip link set far up" \
    "ip link del far; ip link set tunl0 up"
}

faults_of_the_vip() {
  gives B5 "no VIP, no forwarding" \
    "sysctl -qw net.ipv4.ip_forward=0; ip addr del $VIP/32 dev lo" "ip addr add $VIP/32 dev lo"
  gives B6 "no VIP, forwarding" \
    "sysctl -qw net.ipv4.ip_forward=1; ip addr del $VIP/32 dev lo" \
    "ip addr add $VIP/32 dev lo; sysctl -qw net.ipv4.ip_forward=0
     sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2"
}

faults_of_source_validation() {
  gives B10 "rp_filter is 1 on tunl0" \
    "sysctl -qw net.ipv4.conf.tunl0.rp_filter=1" "sysctl -qw net.ipv4.conf.tunl0.rp_filter=0"
  gives B10 "rp_filter is 1 on all" \
    "sysctl -qw net.ipv4.conf.all.rp_filter=1" "sysctl -qw net.ipv4.conf.all.rp_filter=0"
  gives B11 "rp_filter is 2 and tunl0 has no address" \
    "sysctl -qw net.ipv4.conf.tunl0.rp_filter=2" "sysctl -qw net.ipv4.conf.tunl0.rp_filter=0"
}

faults_of_the_way_back_and_the_service() {
  gives B15 "no route to the client" "ip route del default" "ip route add default via $GATEWAY"
  gives B15 "no route to the client, and rp_filter is loose" \
    "ip route del default; sysctl -qw net.ipv4.conf.tunl0.rp_filter=2; ip addr add 127.0.0.42/32 dev tunl0" \
    "ip route add default via $GATEWAY; sysctl -qw net.ipv4.conf.tunl0.rp_filter=0; ip addr del 127.0.0.42/32 dev tunl0"
  gives B16 "the way back leaves by tunl0" \
    "ip route add $CLIENT/32 dev tunl0" "ip route del $CLIENT/32 dev tunl0"
  gives_for 81/tcp B30 "nothing listens" true true
}

pairs() {
  gives B2 "tunl0 is down, and no VIP" \
    "ip link set tunl0 down; ip addr del $VIP/32 dev lo" \
    "ip link set tunl0 up; ip addr add $VIP/32 dev lo"
  gives B5 "no VIP, and rp_filter is 1" \
    "ip addr del $VIP/32 dev lo; sysctl -qw net.ipv4.conf.tunl0.rp_filter=1" \
    "ip addr add $VIP/32 dev lo; sysctl -qw net.ipv4.conf.tunl0.rp_filter=0"
  gives B15 "no route to the client, and rp_filter is 1" \
    "ip route del default; sysctl -qw net.ipv4.conf.tunl0.rp_filter=1" \
    "ip route add default via $GATEWAY; sysctl -qw net.ipv4.conf.tunl0.rp_filter=0"
  gives_for 81/tcp B10 "rp_filter is 1, and nothing listens" \
    "sysctl -qw net.ipv4.conf.tunl0.rp_filter=1" "sysctl -qw net.ipv4.conf.tunl0.rp_filter=0"
}

healthy_variants() {
  gives none "rp_filter is 2 and tunl0 has an address" \
    "ip addr add 127.0.0.42/32 dev tunl0; sysctl -qw net.ipv4.conf.tunl0.rp_filter=2" \
    "sysctl -qw net.ipv4.conf.tunl0.rp_filter=0; ip addr del 127.0.0.42/32 dev tunl0"
  gives none "rp_filter is 1 on eth0 alone" \
    "sysctl -qw net.ipv4.conf.eth0.rp_filter=1" "sysctl -qw net.ipv4.conf.eth0.rp_filter=0"
  gives none "ipip0 external beside a dead tunl0" \
    "ip link set tunl0 down; ip link add ipip0 type ipip external; ip link set ipip0 up
     sysctl -qw net.ipv4.conf.ipip0.rp_filter=0" \
    "ip link del ipip0; ip link set tunl0 up"
  gives none "a tunnel of its own for the director" \
    "ip link set tunl0 down; ip link add own type ipip remote $DIRECTOR local $BACKEND; ip link set own up
     sysctl -qw net.ipv4.conf.own.rp_filter=0" \
    "ip link del own; ip link set tunl0 up"
  gives none "an AnyIP route instead of the address" \
    "ip addr del $VIP/32 dev lo; ip route add local $VIP/32 dev lo" \
    "ip route del local $VIP/32 dev lo; ip addr add $VIP/32 dev lo"
}

# Several faults at once: all are mended, and the undo script brings them back.
mends() {
  local code=0
  on backend bash -c "ip link set tunl0 down; ip addr del $VIP/32 dev lo
    sysctl -qw net.ipv4.conf.tunl0.rp_filter=1"
  on backend "$TUNLB" doctor --role backend --vip "$VIP:80/tcp" --client "$CLIENT" --director "$DIRECTOR" \
    --fix --apply --yes --undo-file "$LAB_DIR/undo.sh" >"$LAB_DIR/mended.out" || code=$?
  [ "$code" = 0 ] || fail "not mended (exit code $code): $(cat "$LAB_DIR/mended.out")"
  gives none "tunl0 down, no VIP and rp_filter 1, all mended" true true
  on backend "$LAB_DIR/undo.sh" >/dev/null || fail "the undo script failed"
  gives B2 "the same, undone" true "ip link set tunl0 up; ip addr add $VIP/32 dev lo
    sysctl -qw net.ipv4.conf.tunl0.rp_filter=0"
}

# gives CODE|none DESCRIPTION INJECT UNDO
gives() { gives_for 80/tcp "$@"; }

# gives_for PORT/PROTO CODE|none DESCRIPTION INJECT UNDO: with the fault, the verdict has the code;
# `none`: it is "pass", with no code at all.
gives_for() {
  local verdict code=0
  on backend bash -c "$4" || fail "$3: cannot be made"
  on backend "$TUNLB" doctor --role backend --vip "$VIP:$1" --client "$CLIENT" --director "$DIRECTOR" \
    --json >"$LAB_DIR/doctor.json" || code=$?
  on backend bash -c "$5" || fail "$3: cannot be undone"
  verdict=$(python3 -c '
import json, sys
verdict = json.load(open(sys.argv[1]))["verdict"]
print(verdict["code"] or "none", verdict["status"], verdict["summary"])' "$LAB_DIR/doctor.json")
  case $2 in
    none) [[ $verdict == "none pass"* && $code = 0 ]] || fail "$3: $verdict (exit code $code)" ;;
    *) [[ $verdict == "$2 fail"* && $code = 1 ]] || fail "$3: instead of $2: $verdict (exit code $code)" ;;
  esac
  judged=$((judged + 1))
  say "  $2: $3"
}

main "$@"
