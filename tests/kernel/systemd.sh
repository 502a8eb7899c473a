#!/usr/bin/env bash
# systemd.sh - the units of packaging/ under a real systemd, with its udev, journal and networkd. Runs as root in
# the guest, as a service, in /vm.
#
#   client 10.0.0.10 ── eth0 ── this host 10.0.0.1, 10.0.1.1 ── eth1 ── backends 10.0.1.11, .12
#
# The director is tunlb.service in the guest's own network; the backends are tunlb-decap.service, started in
# network namespaces by drop-ins.
set -euo pipefail
# shellcheck source=tests/kernel/checks.sh
. "$(dirname "$0")/checks.sh"

export TUNLB=/usr/bin/tunlb
VIP=203.0.113.10
CONFIG=/etc/tunlb/tunlb.toml
PATIENCE=60

main() {
  say "$(systemctl --version | head -n 1), kernel $(uname -r)"
  install_packaging
  build_network
  start_backends

  check "it is ready when it forwards" starts_forwarding
  check "it runs as its user, with two capabilities, and the journal has its priorities" is_confined
  check "a reload that is refused fails, says why and changes nothing" refuses_a_reload
  check "a reload is done when it is applied" reloads
  check "one that was killed comes back" comes_back_after KILL
  check "one that hangs is found by the watchdog" comes_back_after STOP
  check "networkd started, stopped and started again beside it takes nothing away" survives_networkd
  check "an interface taken down and up, as udev and networkd do, costs no restart" survives_a_link
  check "stopped, it leaves nothing" leaves_nothing
  check "a backend's decapsulator that was killed comes back" decap_comes_back
  verdict
}

install_packaging() {
  install -m 755 /vm/tunlb "$TUNLB"
  install -m 644 /vm/systemd/*.service /etc/systemd/system/
  install -D -m 644 -t /usr/lib/sysusers.d /vm/sysusers.d/tunlb.conf
  systemd-sysusers
  install -d -m 750 -g tunlb /etc/tunlb
  modprobe tun
}

build_network() {
  ip netns add client
  ip link add eth0 type veth peer name eth0 netns client
  ip address add 10.0.0.1/24 dev eth0
  ip link set eth0 up
  ip -n client address add 10.0.0.10/24 dev eth0
  ip -n client link set eth0 up
  ip -n client route add default via 10.0.0.1
  ip link add lan type bridge
  ip address add 10.0.1.1/24 dev lan
  ip link set lan up
  sysctl -qw net.ipv4.ip_forward=1
}

start_backends() {
  local number
  for number in 1 2; do add_backend "b$number" "10.0.1.1$number"; done
  echo "OPTIONS=--vip $VIP --director 10.0.1.1/32 --setup" >/etc/tunlb/decap.env
  systemctl daemon-reload
  systemctl start decap-b1 decap-b2
}

# add_backend NAME ADDRESS: a host with the unit of the decapsulator, and a web server.
add_backend() {
  local name=$1 address=$2
  ip netns add "$name"
  ip link add "$name" master lan type veth peer name eth0 netns "$name"
  ip link set "$name" up
  ip -n "$name" link set lo up
  ip -n "$name" address add "$address/24" dev eth0
  ip -n "$name" link set eth0 up
  ip -n "$name" route add default via 10.0.1.1
  cp /vm/systemd/tunlb-decap.service "/etc/systemd/system/decap-$name.service"
  mkdir "/etc/systemd/system/decap-$name.service.d"
  printf '[Service]\nNetworkNamespacePath=/run/netns/%s\n' "$name" >"/etc/systemd/system/decap-$name.service.d/lab.conf"
  systemd-run --quiet --unit="httpd-$name" --property="NetworkNamespacePath=/run/netns/$name" \
    python3 /vm/netns-scripts/httpd.py "$name" "$VIP" 80
}

write_config() {
  {
    printf '[[vip]]\nname = "web"\naddress = "%s"\nport = 80\n' "$VIP"
    for address; do printf '[[vip.backend]]\naddress = "%s"\n' "$address"; done
  } >"$CONFIG"
  chmod 640 "$CONFIG"
  chgrp tunlb "$CONFIG"
}

# The answer of a backend to the client, of the first attempt.
get() { ip netns exec client curl -sS --max-time 10 "http://$VIP/"; }

# eventually COMMAND…: it succeeds before the deadline.
eventually() {
  local deadline=$((SECONDS + PATIENCE))
  until "$@"; do
    if [ "$SECONDS" -ge "$deadline" ]; then
      say "not within $PATIENCE s: $*"
      systemctl status --no-pager --lines=20 tunlb || :
      return 1
    fi
    sleep 0.2
  done
}

answers() { get >/dev/null 2>&1; }

main_pid() { systemctl show --property=MainPID --value "$1"; }

starts_forwarding() {
  write_config 10.0.1.11 10.0.1.12
  # The backends' own start is not what is judged.
  eventually systemctl --quiet is-active decap-b1 decap-b2
  systemctl start tunlb
  get # at once: the unit was not ready before
  systemctl show --property=StatusText --value tunlb | grep -q forwarding
}

is_confined() {
  local pid
  pid=$(main_pid tunlb)
  [ "$(stat -c %U "/proc/$pid")" = tunlb ]
  grep -q '^CapEff:[[:space:]]*0000000000003000$' "/proc/$pid/status" # CAP_NET_ADMIN (12), CAP_NET_RAW (13)
  [ "$(stat -c %a /dev/net/tun)" = 666 ] # as udev makes it, not this script
  journalctl -u tunlb -o json --output-fields=PRIORITY,MESSAGE | grep -q '"PRIORITY":"6"'
  not grep -q '^<[0-7]>' <(journalctl -u tunlb -o cat)
}

refuses_a_reload() {
  local pid
  pid=$(main_pid tunlb)
  echo 'junk = 1' >>"$CONFIG"
  not systemctl reload tunlb
  systemctl --quiet is-active tunlb
  [ "$(main_pid tunlb)" = "$pid" ]
  journalctl -u tunlb -o cat | grep -q 'junk: unknown key'
  get
}

reloads() {
  local pid
  pid=$(main_pid tunlb)
  write_config 10.0.1.12
  systemctl reload tunlb
  [ "$(main_pid tunlb)" = "$pid" ]
  [ "$(get)" = b2 ]
  write_config 10.0.1.11 10.0.1.12
  systemctl reload tunlb
}

# comes_back_after SIGNAL
comes_back_after() {
  local pid
  pid=$(main_pid tunlb)
  kill "-$1" "$pid"
  eventually is_another tunlb "$pid"
  eventually answers
}

# is_another UNIT PID: its process is no longer that one.
is_another() {
  local now
  now=$(main_pid "$1")
  [ "$now" != 0 ] && [ "$now" != "$2" ] && systemctl --quiet is-active "$1"
}

survives_networkd() {
  local pid
  pid=$(main_pid tunlb)
  mkdir -p /etc/systemd/network
  printf '[Match]\nName=eth0\n[Network]\nAddress=10.0.0.1/24\n' >/etc/systemd/network/10-eth0.network
  systemctl start systemd-networkd
  eventually is_configured eth0
  eventually answers
  systemctl restart systemd-networkd
  eventually is_configured eth0
  eventually answers
  networkctl reconfigure eth0
  eventually answers
  systemctl stop systemd-networkd
  [ "$(main_pid tunlb)" = "$pid" ]
  ip route get "$VIP" | grep -q 'dev tunlb0'
}

is_configured() { networkctl list "$1" 2>/dev/null | grep -q configured; }

survives_a_link() {
  local pid
  pid=$(main_pid tunlb)
  ip link set tunlb0 down
  eventually answers
  udevadm trigger --action=change --subsystem-match=net --settle
  eventually answers
  [ "$(main_pid tunlb)" = "$pid" ]
}

leaves_nothing() {
  systemctl stop tunlb
  [ "$(systemctl show --property=Result --value tunlb)" = success ]
  not ip link show tunlb0 2>/dev/null
  [ -z "$(ip route show "$VIP")" ]
  not answers
  systemctl start tunlb
  get
}

decap_comes_back() {
  local pid
  pid=$(main_pid decap-b1)
  kill -KILL "$pid"
  eventually is_another decap-b1 "$pid"
  write_config 10.0.1.11
  systemctl reload tunlb
  eventually answers
}

main
