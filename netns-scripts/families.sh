#!/usr/bin/env bash
# families.sh - either family of inner packets in either family of tunnels, in IP-in-IP and in GUE.
#
#   client ── 10.0.9.0/24  2001:db8:9::/64 ── director ── 10.0.1.0/24  2001:db8:1::/64 ── backend
#   eth0 .2, ::2                       eth1 .1, ::1    eth0 .2, ::2                  eth0 .11, ::11
#   eth1 .2, ::2 ─────────────── 10.0.8.0/24  2001:db8:8::/64 ─────────────────── eth1 .11, ::11
#
#   a request:  client → director ═ tunnel ═ backend: eth0
#   its reply:  backend: eth1 → client
#
# There is a VIP for each of the eight combinations. For each: it answers, a download and an upload of
# full-sized packets arrive whole, every packet for the VIP came to the backend in the tunnel that was
# configured and from nowhere else, and no reply took that way.
#
# Where the kernel has them, its tunnels end here in tunl0 (4in4), sit0 (6in4) and ip6tnl0 (4in6 and
# 6in6), and GUE in its `fou` ports, which hand the inner packet on to those devices. Otherwise, and
# with TUNLB_DECAP=1, in `tunlb decap`. (Opening a `fou` port takes the machine's root: without it,
# GUE ends in `tunlb decap` everywhere.)
#
# See lib.sh for what it needs, its environment and its exit codes.
set -euo pipefail
# shellcheck source=netns-scripts/lib.sh
. "$(dirname "$0")/lib.sh"

GUE_PORT=6080
DOWNLOAD_BYTES=1000000
UPLOAD_BYTES=300000
DIRECTOR4=10.0.1.2 DIRECTOR6=2001:db8:1::2
BACKEND4=10.0.1.11 BACKEND6=2001:db8:1::11
LINK_MTU=1500

COMBINATIONS=(4in4 4in6 6in4 6in6 4in4-gue 4in6-gue 6in4-gue 6in6-gue)
declare -A VIP=(
  [4in4]=10.0.0.101 [4in6]=10.0.0.102 [6in4]=2001:db8::103 [6in6]=2001:db8::104
  [4in4-gue]=10.0.0.105 [4in6-gue]=10.0.0.106 [6in4-gue]=2001:db8::107 [6in6-gue]=2001:db8::108
)
# watch.py's names of the tunnels.
declare -A OUTER=([4in4]=IPIP [4in6]=IPIP6 [6in4]=SIT [6in6]=IP6IP6)
declare -A PROTOCOL=([IPIP]=4 [IPIP6]=4 [SIT]=41 [IP6IP6]=41 [GUE]="UDP $GUE_PORT")
# Who ends the tunnel of a combination.
declare -A ENDS=()

main() {
  no_arguments "$@"
  need_commands
  find_tunlb
  enter_lab "$0" "$@"

  build_network
  start web backend "$LAB_ROOT/netns-scripts/httpd.py" backend :: # which takes IPv4, too
  end_ipip
  end_gue
  let_full_sized_packets_come
  start watch backend "$LAB_ROOT/netns-scripts/watch.py" eth0
  start_director
  wait_for_word listening web
  wait_for_word watching watch
  wait_for_word forwarding director

  head -c "$UPLOAD_BYTES" /dev/urandom >"$LAB_DIR/upload"
  expected_download=$(download_digest "$DOWNLOAD_BYTES")
  expected_upload=$(sha256sum <"$LAB_DIR/upload")
  local name
  for name in "${COMBINATIONS[@]}"; do exchange "$name"; done
  stop director
  stop watch
  table_row combination "outer protocol" "packets" "ended in"
  for name in "${COMBINATIONS[@]}"; do judge "$name"; done
  say
  say "OK: ${#COMBINATIONS[@]} combinations answered, each with a download of $DOWNLOAD_BYTES and an" \
    "upload of $UPLOAD_BYTES bytes; no reply passed the director."
}

# ---------------------------------------------------------------------------------------- network

build_network() {
  local host
  for host in client director backend; do add_host "$host"; enable_ipv6 "$host"; done
  cable client eth0 director eth1
  cable director eth0 backend eth0
  cable backend eth1 client eth1
  set_addresses client eth0 9 2
  set_addresses director eth1 9 1
  set_addresses director eth0 1 2
  set_addresses backend eth0 1 11
  set_addresses backend eth1 8 11
  set_addresses client eth1 8 2
  on client ip route add 10.0.0.0/24 via 10.0.9.1
  on client ip route add 2001:db8::/64 via 2001:db8:9::1
  on backend ip route add 10.0.9.0/24 via 10.0.8.2
  on backend ip route add 2001:db8:9::/64 via 2001:db8:8::2
}

# set_addresses HOST DEVICE SUBNET HOST_NUMBER
set_addresses() {
  on "$1" ip addr add "10.0.$3.$4/24" dev "$2"
  on "$1" ip addr add "2001:db8:$3::$4/64" dev "$2" nodad
}

start_director() {
  local name
  printf '[director]\negress = "%s"\n' "${LAB_EGRESS:-auto}" >"$LAB_DIR/tunlb.toml"
  for name in "${COMBINATIONS[@]}"; do
    printf '[[vip]]\nname = "%s"\naddress = "%s"\nport = 80\nprotocol = "tcp"\n' "$name" "${VIP[$name]}"
    printf '[vip.encap]\nkind = "%s"\n' "$(is_gue "$name" && echo gue || echo ipip)"
    printf '[[vip.backend]]\naddress = "%s"\n' "$(backend_of "$name")"
  done >>"$LAB_DIR/tunlb.toml"
  start director director "$TUNLB" run -c "$LAB_DIR/tunlb.toml" --setup
}

is_gue() { [[ $1 = *-gue ]]; }

# The outer family is what the director's packets to this address are of.
backend_of() { [[ $1 = ?in4* ]] && echo "$BACKEND4" || echo "$BACKEND6"; }
director_of() { [[ $1 = ?in4* ]] && echo "$DIRECTOR4" || echo "$DIRECTOR6"; }

# -------------------------------------------------------------------------------- ends of tunnels

# All four devices or none: `tunlb decap` takes every combination, and does not run beside them.
end_ipip() {
  if [ "${TUNLB_DECAP:-0}" = 1 ]; then
    start_decap decap0 "${COMBINATIONS[@]:0:4}"
  elif has_tunnel backend tunl0 ipip && has_tunnel backend sit0 sit && has_tunnel backend ip6tnl0 ip6tnl; then
    kernel_tunnels
    ENDS+=([4in4]=tunl0 [4in6]=ip6tnl0 [6in4]=sit0 [6in6]=ip6tnl0)
  else
    say "This kernel lacks tunnels (modules ipip, sit, ip6_tunnel)."
    start_decap decap0 "${COMBINATIONS[@]:0:4}"
  fi
}

# What a real backend needs with the kernel's tunnels (see the README).
kernel_tunnels() {
  local device name
  on backend ip -6 tunnel change ip6tnl0 mode any # as it comes, it takes IPv6 only
  for device in tunl0 sit0 ip6tnl0; do on backend ip link set "$device" up; done
  set_sysctl backend net.ipv4.conf.{all,tunl0,ip6tnl0}.rp_filter=0
  set_sysctl backend net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
  for name in "${COMBINATIONS[@]}"; do on backend ip addr add "${VIP[$name]}" dev lo; done
}

# The port hands what it unpacks to the kernel's tunnels.
end_gue() {
  local name
  if [ -n "${ENDS[4in4]:-}" ] && [ "${ENDS[4in4]}" = tunl0 ] && kernel_gue; then
    for name in "${COMBINATIONS[@]:4}"; do ENDS[$name]="fou, ${ENDS[${name%-gue}]}"; done
  else
    start_decap decap1 "${COMBINATIONS[@]:4}"
  fi
}

kernel_gue() {
  modprobe -q fou 2>/dev/null || : # nothing loads it by itself
  if ! on backend ip fou add port "$GUE_PORT" gue 2>"$LAB_DIR/fou.err"; then
    say "No \`fou\` port here (module fou): $(head -n 1 "$LAB_DIR/fou.err")."
    return 1
  fi
  on backend ip -6 fou add port "$GUE_PORT" gue
}

# start_decap DEVICE COMBINATION…
start_decap() {
  local device=$1 name arguments=(--director "$DIRECTOR4" --director "$DIRECTOR6")
  shift
  for name; do
    arguments+=(--vip "${VIP[$name]}")
    ENDS[$name]="tunlb decap"
  done
  if is_gue "$1"; then arguments+=(--gue "$GUE_PORT"); fi
  start "$device" backend "$TUNLB" decap --tun "$device" --setup "${arguments[@]}"
  wait_for_word decapsulating "$device"
}

# The decapsulators' routes for answers announce segments that fit the tunnel. An operator's rules that come
# first let full-sized packets come, about which the client must be told.
let_full_sized_packets_come() {
  local name
  for name in "${COMBINATIONS[@]}"; do
    if [[ ${VIP[$name]} = *:* ]]; then
      on backend ip -6 rule add from "${VIP[$name]}" lookup main priority 10
    else
      on backend ip rule add from "${VIP[$name]}" lookup main priority 10
    fi
  done
}

# ---------------------------------------------------------------------------------------- traffic

ask() {
  on client curl --silent --show-error --fail --globoff --max-time $((20 * LAB_SLOW)) "$@"
}

# exchange COMBINATION: an answer, a download, an upload.
exchange() {
  local host=${VIP[$1]} answer
  if [[ $host = *:* ]]; then host="[$host]"; fi
  answer=$(ask "http://$host/") || fail "$1: no answer (curl's code $?)"
  [ "$answer" = backend ] || fail "$1: \"$answer\" answered"
  answer=$(ask "http://$host/bytes/$DOWNLOAD_BYTES" | sha256sum) || fail "$1: the download failed"
  [ "$answer" = "$expected_download" ] || fail "$1: the download arrived damaged"
  answer=$(ask --upload-file "$LAB_DIR/upload" "http://$host/upload") || fail "$1: the upload failed"
  [ "$answer" = "${expected_upload%% *}" ] || fail "$1: the upload arrived damaged"
  # Its first packets were too long, else the client would not have been told this.
  local mtu=$((LINK_MTU - $(overhead_of "$1")))
  on client ip route get "${VIP[$1]}" | grep -qw "mtu $mtu" ||
    fail "$1: the client was not told the path's MTU, $mtu"
}

# overhead_of COMBINATION: bytes that its tunnel adds, the outer IP header and UDP's for GUE.
overhead_of() {
  local bytes=20
  [[ $1 = ?in4* ]] || bytes=40
  ! is_gue "$1" || bytes=$((bytes + 8))
  echo "$bytes"
}

# judge COMBINATION: what the backend's eth0 saw, as a row of the table.
judge() {
  local outer=GUE tunnelled all replies family=IPv4
  is_gue "$1" || outer=${OUTER[$1]}
  [[ $1 = ?in4* ]] || family=IPv6
  tunnelled=$(seen "^in  $outer $(director_of "$1") > $(backend_of "$1"): TCP .* > ${VIP[$1]}:80 ")
  all=$(seen "^in .* > ${VIP[$1]}:80 ")
  replies=$(seen "^out .*TCP ${VIP[$1]}:80 > ")
  table_row "$1" "$family, ${PROTOCOL[$outer]}" "$tunnelled" "${ENDS[$1]}"
  # Not all of them: what comes faster than the witness writes, it may miss.
  [ "$tunnelled" -ge 1 ] || fail "$1: no packet came in $outer"
  [ "$all" = "$tunnelled" ] || fail "$1: $((all - tunnelled)) packets came otherwise than in $outer"
  [ "$replies" = 0 ] || fail "$1: $replies replies left towards the director"
}

# seen REGEX: lines of the witness.
seen() { grep -c -- "$1" "$LAB_DIR/watch.out" || :; }

table_row() { printf '  %-12s %-16s %8s  %s\n' "$@"; }

main "$@"
