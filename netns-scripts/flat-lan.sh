#!/usr/bin/env bash
# flat-lan.sh - the VIP in the clients' own network: one Ethernet segment, no router.
#
#            10.0.0.0/24  2001:db8::/64
#   client .1 ───┬─── director .2   (VIPs 10.0.0.100 and 2001:db8::100: routes into tunlb0)
#                ├─── b1 .11        (VIPs on lo)
#                └─── b2 .12
#
#   a request:  client, who asks the segment → director ═ tunnel ═ a backend
#   its reply:  backend → client
#
# Without --setup nothing answers for the VIPs, and the director says so. With --setup it answers ARP and
# neighbour discovery, and announces: a client whose cache holds a dead machine is right at once. When it has
# ended, nothing answers any more.
#
# The tunnels end in `tunlb decap`. See lib.sh for what it needs, its environment and its exit codes.
set -euo pipefail
# shellcheck source=netns-scripts/lib.sh
. "$(dirname "$0")/lib.sh"

VIPS=(10.0.0.100 2001:db8::100)
REQUESTS=20
DEAD=02:00:00:00:00:99

main() {
  no_arguments "$@"
  need_commands
  find_tunlb
  enter_lab "$0" "$@"

  build_network
  local backend vip
  for backend in b1 b2; do serve "$backend"; done

  say "Without --setup:"
  start_director
  for vip in "${VIPS[@]}"; do
    said director "vip $vip is in .* where nothing answers" || fail "$vip: the director does not say that nothing answers"
    ! answered "$vip" || fail "$vip: answered, though nothing was to"
    say "  $vip: no answer, and the director says why"
  done
  stop director

  say "With --setup:"
  for vip in "${VIPS[@]}"; do
    on client ip neigh replace "$vip" lladdr "$DEAD" dev eth0 nud reachable
  done
  start_director --setup
  for vip in "${VIPS[@]}"; do
    wait_for 5 "the client to hear where $vip is" mac_at_client "$vip" "$(mac_of director)"
    say "  $vip: announced, a cache that held $DEAD holds $(mac_of director)"
  done
  for vip in "${VIPS[@]}"; do requests "$vip"; done
  stop director
  for vip in "${VIPS[@]}"; do
    ! answered "$vip" || fail "$vip: answered after the director's end"
  done
  [ -z "$(on director ip neigh show proxy)" ] || fail "the director left a proxy entry behind"
  say "  ended: no answer any more, nothing left behind"
  say
  say "OK: nothing answered without --setup; $((REQUESTS * ${#VIPS[@]})) of $((REQUESTS * ${#VIPS[@]})) requests were answered with it."
}

build_network() {
  local host number=1
  add_host switch
  on switch ip link add lan type bridge mcast_snooping 0
  on switch ip link set lan up
  for host in client director b1 b2; do
    add_host "$host"
    enable_ipv6 "$host"
    cable "$host" eth0 switch "$host"
    on switch ip link set "$host" master lan
    case $host in b1) number=11 ;; b2) number=12 ;; esac
    on "$host" ip addr add "10.0.0.$number/24" dev eth0
    on "$host" ip addr add "2001:db8::$number/64" dev eth0 nodad
    number=$((number + 1))
  done
  for host in client director b1 b2; do wait_for 5 "$host's link-local address" has_link_local "$host"; done
}

has_link_local() {
  on "$1" ip -6 addr show dev eth0 scope link | grep -q inet6 &&
    ! on "$1" ip -6 addr show dev eth0 | grep -q tentative
}

# serve HOST: a web server that takes both families, and a decapsulator for both VIPs.
serve() {
  start "web-$1" "$1" "$LAB_ROOT/netns-scripts/httpd.py" "$1" ::
  start "decap-$1" "$1" "$TUNLB" decap --setup --director 10.0.0.2 --vip "${VIPS[0]}" --vip "${VIPS[1]}"
  wait_for_word listening "web-$1"
  wait_for_word decapsulating "decap-$1"
}

# start_director [ARGUMENT…]
start_director() {
  local vips=() vip
  for vip in "${VIPS[@]}"; do
    if [[ $vip = *:* ]]; then vip="[$vip]"; fi
    vips+=(--vip "$vip:80/tcp")
  done
  start director director "$TUNLB" run "${vips[@]}" --backend 10.0.0.11 --backend 10.0.0.12 "$@"
  wait_for_word ": forwarding " director # not the name of a setting
}

mac_of() { on "$1" ip -o link show eth0 | sed 's/.* link.ether \([^ ]*\) .*/\1/'; }

mac_at_client() { on client ip neigh show "$1" dev eth0 | grep -q "lladdr $2"; }

# ask VIP: prints the name of the backend that answers.
ask() {
  local host=$1
  if [[ $host = *:* ]]; then host="[$host]"; fi
  on client curl --silent --fail --globoff --max-time $((5 * LAB_SLOW)) "http://$host/"
}

answered() {
  on client ip neigh flush dev eth0
  ask "$1" >/dev/null
}

# requests VIP: each is answered, and both backends do.
requests() {
  local i name b1=0 b2=0
  on client ip neigh flush dev eth0
  for ((i = 0; i < REQUESTS; i++)); do
    name=$(ask "$1") || fail "$1: request $i was not answered (curl's code $?)"
    case $name in b1) b1=$((b1 + 1)) ;; b2) b2=$((b2 + 1)) ;; *) fail "$1: \"$name\" answered" ;; esac
  done
  say "  $1: $REQUESTS of $REQUESTS requests answered, $b1 by b1, $b2 by b2"
  [ $((b1 * b2)) -gt 0 ] || fail "$1: one backend answered everything"
}

main "$@"
