#!/usr/bin/env bash
# guest.sh - what run.sh measures on a stock kernel. Runs as root in the guest, in /vm.
#
# First directors, flooded: plain forwarding, IPVS with the scheduler mh in tunnel mode, tunlb by each way out;
# then one bulk upload through a tunnel that ends in tunl0 and in `tunlb decap`, in turn:
#
#   source 10.0.1.2 ── ipip ──────────── 10.0.1.11 sink, VIP 10.0.0.100
#   CPU 0                                CPU 1
set -euo pipefail
export TUNLB=/vm/tunlb
# shellcheck source=netns-scripts/lib.sh
. /vm/netns-scripts/lib.sh
# shellcheck source=/dev/null
. /vm/how-long

VIP=10.0.0.100
PORT=5001

main() {
  say "Kernel $(uname -r), $(nproc) emulated CPUs, $("$TUNLB" --version)"
  modprobe -a tun ip_vs ip_vs_mh
  directors
  bulk
}

directors() {
  # It writes its tables three folders above itself.
  mkdir -p /tmp/bench/release/deps
  cp /vm/datapath /tmp/bench/release/deps/
  /tmp/bench/release/deps/datapath --small --rounds "$ROUNDS" --seconds "$SECONDS_EACH" \
    --only kernel-forwarding,ipvs,tunlb,tunlb-raw,tunlb-packet 2>&1
}

bulk() {
  local round rates_tunl0=() rates_decap=()
  build_bulk
  for ((round = 0; round < ROUNDS; round++)); do
    rates_decap+=("$(through_decap)")
    rates_tunl0+=("$(through_tunl0)")
  done
  say
  say "Bulk upload through a tunnel, Mbit/s, each round: tunlb decap ${rates_decap[*]}; tunl0 ${rates_tunl0[*]}"
}

build_bulk() {
  modprobe ipip
  ip netns add source
  ip netns add sink
  ip -n source link add eth0 type veth peer name eth0 netns sink
  ip -n source addr add 10.0.1.2/24 dev eth0
  ip -n sink addr add 10.0.1.11/24 dev eth0
  # External, so that it does not heed ICMP errors: the sink's kernel sends one for each packet that none of its
  # own tunnels takes, though the socket of `tunlb decap` does.
  ip -n source link add tunnel mtu 1480 type ipip external
  for host in source sink; do ip -n "$host" link set lo up; ip -n "$host" link set eth0 up; done
  ip -n source link set tunnel up
  ip -n source route add "$VIP/32" encap ip src 10.0.1.2 dst 10.0.1.11 dev tunnel src 10.0.1.2
  ip netns exec sink sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.tunl0.rp_filter=0
}

through_tunl0() {
  ip -n sink addr add "$VIP/32" dev lo
  ip -n sink link set tunl0 up
  upload
  ip -n sink link set tunl0 down
  ip -n sink addr del "$VIP/32" dev lo
}

through_decap() {
  local pid
  taskset -c 1 ip netns exec sink "$TUNLB" decap --setup --vip "$VIP" --director 10.0.1.2 \
    >/dev/null 2>/tmp/decap.log &
  pid=$!
  until grep -q decapsulating /tmp/decap.log; do
    kill -0 "$pid" || { cat /tmp/decap.log >&2; return 1; }
    sleep 0.1
  done
  upload
  kill "$pid"
  wait "$pid"
}

# Megabits per second that the sink read, without the first second.
upload() {
  local pid
  taskset -c 1 ip netns exec sink python3 - "$VIP" "$PORT" "$SECONDS_EACH" <<'SINK' &
import socket, sys, time
address, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
stream, _ = socket.create_server((address, port)).accept()
room, count, begin = bytearray(1 << 18), 0, time.monotonic() + 1
while (now := time.monotonic()) < begin + seconds:
    read = stream.recv_into(room)
    count += read if now >= begin else 0
print(round(count * 8 / seconds / 1e6))
SINK
  pid=$!
  taskset -c 0 ip netns exec source python3 - "$VIP" "$PORT" 2>/dev/null <<'SOURCE' || :
import socket, sys, time
while True:
    try:
        stream = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
while True: # until the sink has seen enough
    stream.sendall(bytes(1 << 18))
SOURCE
  wait "$pid"
}

main
