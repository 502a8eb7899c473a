#!/usr/bin/env bash
# readme.sh - the commands of the README's section "Use it", word for word, on hosts with its addresses.
#
#   client ──────────── router ──────────── director        203.0.113.10 and 2001:db8::80 are
#   192.0.2.7           │                   10.0.0.2        routed to the director by the README's
#   2001:db8:c::7       │                   2001:db8:a::2   own commands
#          10.0.1.0/24 ─┤ 2001:db8:1::/64
#                 ┌─────┴───┐
#             backend-1  backend-2
#             10.0.1.11  10.0.1.12
#             ::11       ::12
#
# A block of commands is found by the heading above it and its number there, and runs as in a terminal of
# that host: a shell with the PATH that Debian gives a user. Each user is root here already, so `sudo` is a
# program that only sets the PATH as sudo does. Not run: `cargo install`; the binary is there before.
# With the kernel's tunnel where this kernel has ipip, with `tunlb decap` everywhere.
#
# See lib.sh for what it needs, its environment and its exit codes.
set -euo pipefail
# shellcheck source=netns-scripts/lib.sh
. "$(dirname "$0")/lib.sh"

README=$LAB_ROOT/README.md
SECTION="## Use it"
USER_PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games
BACKENDS=(backend-1 backend-2)
declare -A USED=()

main() {
  no_arguments "$@"
  need_commands
  find_tunlb
  enter_lab "$0" "$@"

  build_network
  install_tunlb
  proof_with_decap
  if modprobe -q ipip 2>/dev/null; then
    proof_with_kernel_tunnel
  else
    say "This kernel has no ipip: not run with the kernel's tunnel."
    skip Backends 2
    skip Stop 1
  fi
  run_block router Stop 2
  [ -z "$(on router ip route show 203.0.113.10)" ] || fail "the router still has the VIP's route"
  proof_with_ipv6_and_gue
  nothing_is_left_out
  say "OK: every block of commands in the README's \"${SECTION#\#\# }\" did what it says."
}

# ---------------------------------------------------------------------------------------- network

build_network() {
  local host number
  for host in client router director "${BACKENDS[@]}"; do
    add_host "$host"
    enable_ipv6 "$host"
    mkdir -p "$LAB_DIR/users/$host"
  done
  cable client eth0 router to-client
  cable director eth0 router to-director
  cable backend-1 eth0 router to-b1
  cable backend-2 eth0 router to-b2
  add_switch router segment to-b1 to-b2
  connect client 192.0.2.7 192.0.2.1 2001:db8:c::7 2001:db8:c::1 to-client
  connect director 10.0.0.2 10.0.0.1 2001:db8:a::2 2001:db8:a::1 to-director
  for number in 1 2; do
    connect "backend-$number" "10.0.1.1$number" 10.0.1.1 "2001:db8:1::1$number" 2001:db8:1::1 segment
  done
  set_sysctl router net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
}

# connect HOST ADDRESS4 GATEWAY4 ADDRESS6 GATEWAY6 DEVICE_OF_ROUTER
connect() {
  on router ip addr replace "$3/24" dev "$6"
  on router ip addr replace "$5/64" dev "$6" nodad
  on "$1" ip addr add "$2/24" dev eth0
  on "$1" ip addr add "$4/64" dev eth0 nodad
  on "$1" ip route add default via "$3"
  on "$1" ip route add default via "$5"
}

# ---------------------------------------------------------------------------------------- the README

# block HEADING NUMBER: its commands.
block() {
  USED["$1 $2"]=1
  blocks | awk -v wanted="$1 $2" '
    /^@/ { inside = substr($0, 2) == wanted; next }
    inside'
}

# All blocks of the section, each after a line "@HEADING NUMBER".
blocks() {
  awk -v section="$SECTION" '
    /^## / { here = $0 == section; next }
    !here { next }
    /^### / { heading = substr($0, 5); number = 0; next }
    /^```sh$/ { number++; print "@" heading " " number; copying = 1; next }
    /^```/ { copying = 0; next }
    copying' "$README"
}

skip() { USED["$1 $2"]=1; }

nothing_is_left_out() {
  local names name
  names=$(blocks | sed -n 's/^@//p')
  while read -r name; do
    [ -n "${USED[$name]:-}" ] || fail "the README's block \"$name\" is not run by ${0##*/}"
  done <<<"$names"
}

# terminal HOST: sets TERMINAL to a command that runs its argument as a shell at a terminal of HOST does.
terminal() {
  # shellcheck disable=SC2016
  TERMINAL=(env "HOME=$LAB_DIR/users/$1" "PATH=$USER_PATH" unshare --uts sh -euc '
    python3 -c "import socket, sys; socket.sethostname(sys.argv[1])" "$0"
    cd
    exec env --default-signal=INT setsid --wait sh -euc "$1"' "$1")
}

# run_block HOST HEADING NUMBER
run_block() {
  local text
  text=$(block "$2" "$3")
  skip "$2" "$3" # the subshell above had its own
  [ -n "$text" ] || fail "the README has no block \"$2 $3\""
  terminal "$1"
  on "$1" "${TERMINAL[@]}" "$text" || fail "on $1, the README's block \"$2 $3\" failed with code $?"
}

# start_block NAME HOST HEADING NUMBER: in the background.
start_block() {
  local text
  text=$(block "$3" "$4")
  skip "$3" "$4"
  [ -n "$text" ] || fail "the README has no block \"$3 $4\""
  terminal "$2"
  start "$1" "$2" "${TERMINAL[@]}" "$text"
}

# ctrl_c NAME…: as in its terminal.
ctrl_c() {
  local name
  for name; do kill -INT -- "-${LAB_PIDS[$name]}" || fail "$name had already ended"; done
  for name; do
    wait_for 5 "$name to end after Ctrl-C" ended "$name"
    wait "${LAB_PIDS[$name]}" || :
    unset "LAB_PIDS[$name]"
  done
}

# The binary where `cargo install` puts it, a sudo, and then the README's block without its first line.
install_tunlb() {
  local commands
  mkdir -p "$LAB_DIR/users/director/.cargo/bin" "$LAB_DIR/local-bin"
  cp "$TUNLB" "$LAB_DIR/users/director/.cargo/bin/tunlb"
  # What the machine has there stays, under a folder that can be written.
  mkdir -p /usr/local/bin || die "this needs a folder /usr/local/bin"
  mount --bind /usr/local/bin "$LAB_DIR/local-bin"
  mount -t tmpfs -o mode=0755 tmpfs /usr/local/bin
  find "$LAB_DIR/local-bin" -mindepth 1 -maxdepth 1 ! -name tunlb ! -name sudo \
    -exec ln -s -t /usr/local/bin {} +
  cat >/usr/local/bin/sudo <<'SUDO'
#!/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin exec env "$@"
SUDO
  chmod 755 /usr/local/bin/sudo
  commands=$(block Install 1)
  skip Install 1
  [ "$(head -n 1 <<<"$commands")" = "cargo install --locked --path ." ] || fail "the README installs in another way"
  terminal director
  on director "${TERMINAL[@]}" "$(tail -n +2 <<<"$commands")" || fail "the README's \"Install\" failed"
  [ -x /usr/local/bin/tunlb ] || fail "the README's \"Install\" installed nothing"
}

# ---------------------------------------------------------------------------------------- the proofs

proof_with_decap() {
  local host
  run_block router Router 1
  for host in "${BACKENDS[@]}"; do
    start_block "decap-$host" "$host" Backends 1
    wait_for_word "decapsulating for 203.0.113.10" "decap-$host"
    start_web "$host" Service 1
  done
  start_block director director Director 1
  # What the README says that it logs.
  wait_for_word "tunlb0: forwarding 203.0.113.10:80/tcp to 2 backends, 1 worker, MTU 1500" director
  grep -q hash_key "$LAB_DIR/director.log" && fail "the generated configuration has no key of its own"
  proof "tunlb decap" Proof 1
  stop_all
}

proof_with_kernel_tunnel() {
  local host
  for host in "${BACKENDS[@]}"; do
    run_block "$host" Backends 2 >/dev/null
    start_web "$host" Service 1
  done
  start_block director director Director 1
  wait_for_word "forwarding" director
  proof "the kernel's tunl0" Proof 1
  stop_director
  for host in "${BACKENDS[@]}"; do
    ctrl_c "web-$host"
    run_block "$host" Stop 1
    on "$host" ip addr show dev lo | grep -qF 203.0.113.10 && fail "$host still has the VIP"
  done
  return 0
}

proof_with_ipv6_and_gue() {
  local host heading="IPv6, and GUE"
  run_block router "$heading" 1
  for host in "${BACKENDS[@]}"; do
    start_block "decap-$host" "$host" "$heading" 2
    wait_for_word "decapsulating" "decap-$host"
    start_web "$host" "$heading" 3
  done
  start_block director director "$heading" 4
  wait_for_word "forwarding" director
  proof "tunlb decap, IPv6 in GUE" "$heading" 5
  stop_all
}

# start_web HOST HEADING NUMBER
start_web() {
  start_block "web-$1" "$1" "$2" "$3"
  wait_for 10 "the web server of $1" listens "$1"
}

listens() { on "$1" ss --no-header --listening --tcp --numeric 'sport = :80' | grep -q .; }

# proof TUNNEL HEADING NUMBER: every connection is answered, and by all backends, as its key has it.
proof() {
  local answers="" once host tries=0
  until all_in "$answers"; do
    [ $((tries += 1)) -le 20 ] || fail "not all backends answered: $answers"
    once=$(run_block client "$2" "$3")
    [ "$(wc -l <<<"$once")" = 6 ] || fail "not 6 answers: $once"
    answers+=$once$'\n'
  done
  skip "$2" "$3"
  for host in "${BACKENDS[@]}"; do
    say "$1: $host answered $(grep -cx "$host" <<<"$answers") of $((6 * tries)) connections"
  done
}

all_in() {
  local host
  for host in "${BACKENDS[@]}"; do grep -qx "$host" <<<"$1" || return 1; done
}

stop_all() {
  local host
  stop_director
  for host in "${BACKENDS[@]}"; do
    ctrl_c "decap-$host" "web-$host"
    on "$host" ip link show decap0 2>/dev/null && fail "decap0 of $host outlives its tunlb"
  done
  return 0
}

# Its totals, and the device, the routes and the settings that go with it.
stop_director() {
  ctrl_c director
  grep -q "^dropped" "$LAB_DIR/director.out" || fail "the director printed no totals"
  on director ip link show tunlb0 2>/dev/null && fail "tunlb0 outlives its tunlb"
  [ "$(on director sysctl -n net.ipv4.ip_forward)" = 0 ] || fail "the director still forwards"
}

main "$@"
