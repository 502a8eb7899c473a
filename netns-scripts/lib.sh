# shellcheck shell=bash
# lib.sh - what the network-namespace labs share. Sourced, not run.
#
# A lab runs in namespaces of its own (network, mount and, where the kernel lets it, pid), so the
# host's links, routes, sysctls, /run and processes are never touched, and the kernel itself
# clears everything away even after SIGKILL. Each host of a lab is one more network namespace.
#
# Environment:
#   TUNLB         a built binary to use; without it `cargo build --release` makes one
#   TUNLB_DECAP   1: `tunlb decap` on the backends even where the kernel has tunl0
#   LAB_EGRESS    how the director of families.sh sends: raw, packet, xsk; auto without it
#   LAB_SLOW      factor on every deadline, for slow machines and emulators (1)
#   LAB_VERBOSE   1: show every command that sets a host up
#
# Exit codes of a lab: 0 all held; 1 an assertion failed; 2 it could not be set up.

# Debian keeps sysctl, nft and ethtool where the PATH of a user does not look, and rustup's installer puts
# cargo where only a new shell finds it.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:${CARGO_HOME:-${HOME:-}/.cargo}/bin
export PATH

LAB_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
LAB_SLOW=${LAB_SLOW:-1}
# A tmpfs of the lab's own goes over this directory, in the lab's mount namespace only. Every Linux
# has it, and nothing that a lab runs needs what the host keeps there.
LAB_DIR=/dev/shm
LAB=lab$$           # namespaces carry the shell's pid, so that two labs are told apart
declare -A LAB_PIDS=()
# Put before a command, ends it with this shell, even when SIGKILL ends the shell. The parent is
# asked for again because it may have died before the signal was set.
# shellcheck disable=SC2016
DIE_WITH_SHELL=(setpriv --pdeathsig KILL sh -c '[ "$PPID" = "$0" ] && exec "$@"' "$$")

say() { printf '%s\n' "$*"; }
# An assertion about the network did not hold.
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
# The lab cannot run here.
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 2; }

# ---------------------------------------------------------------------------------- what it needs

# no_arguments "$@": a lab takes none; --help prints the comment that opens its script.
no_arguments() {
  case ${1:-} in
    "") ;;
    -h | --help) sed -n '2,/^set /p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
    *) die "unknown argument: $1" ;;
  esac
}

# need COMMAND:APT_PACKAGE...: names all that are missing, and the one command that installs them.
need() {
  local entry commands=() packages=()
  for entry; do
    command -v "${entry%%:*}" >/dev/null && continue
    commands+=("\`${entry%%:*}\`")
    case " ${packages[*]} " in *" ${entry#*:} "*) ;; *) packages+=("${entry#*:}") ;; esac
  done
  [ "${#commands[@]}" = 0 ] || die "missing: ${commands[*]}; on Debian or Ubuntu: sudo apt install ${packages[*]}"
}

# What every lab needs, asked for before the build, which takes minutes.
need_commands() {
  need ip:iproute2 curl:curl python3:python3 unshare:util-linux nsenter:util-linux setpriv:util-linux \
    mount:mount sysctl:procps pgrep:procps awk:mawk
  is_inside && return
  [ -n "${TUNLB:-}${SUDO_USER:-}" ] || [ -x "$(built_tunlb)" ] || need_rust
  need_namespaces
}

# Sets TUNLB to the binary's absolute path, building it first when none is given.
find_tunlb() {
  if [ -z "${TUNLB:-}" ]; then
    build_tunlb
    TUNLB=${CARGO_TARGET_DIR:-$LAB_ROOT/target}/release/tunlb
  fi
  [ -x "$TUNLB" ] || die "no such program: $TUNLB"
  TUNLB=$(realpath "$TUNLB")
  export TUNLB
}

# Where cargo puts the binary.
built_tunlb() { printf '%s/release/tunlb' "${CARGO_TARGET_DIR:-$LAB_ROOT/target}"; }

build_tunlb() {
  # Under sudo the build would leave root's files in the user's target directory.
  if [ "$EUID" = 0 ] && [ -n "${SUDO_USER:-}" ]; then
    [ -x "$(built_tunlb)" ] || die "build it as yourself first: cargo build --release && sudo $(quoted "$0")"
    return 0
  fi
  need_rust
  [ -x "$(built_tunlb)" ] || say "Building tunlb with cargo. The first build takes a few minutes." >&2
  # shellcheck disable=SC2086  # none or several words
  cargo build --release --locked ${CARGO_FEATURES:+--features "$CARGO_FEATURES"} \
    --manifest-path "$LAB_ROOT/Cargo.toml" || die "cargo build --release failed"
}

# A toolchain that is new enough, and a linker.
need_rust() {
  command -v cargo >/dev/null ||
    die "\`cargo\` is missing: install Rust from https://rustup.rs, or name a built binary: TUNLB=/path/to/tunlb $(quoted "$0")"
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$LAB_ROOT/Cargo.toml")
  found=$(cd "$LAB_ROOT" && rustc --version | awk '{ print $2 }') || die "\`rustc --version\` failed"
  [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ] ||
    die "Rust $found ($(command -v rustc)) is too old, tunlb needs $wanted or later; run: rustup update stable, or install Rust from https://rustup.rs"
  need "cc:gcc libc6-dev"
  [ -e "$(cc -print-file-name=Scrt1.o)" ] ||
    die "\`cc\` cannot link: Scrt1.o of the C library is missing; on Debian or Ubuntu: sudo apt install libc6-dev"
}

# A word for a shell, only quoted where it has to be.
quoted() {
  case $1 in
    *[!A-Za-z0-9_./:@%+=,-]* | "") printf '%q' "$1" ;;
    *) printf '%s' "$1" ;;
  esac
}

# ------------------------------------------------------------------------------ entering the lab

# enter_lab "$0" "$@": returns inside fresh namespaces; outside of them it runs the script again
# inside, passes signals on, and exits with its code.
enter_lab() {
  if is_inside; then
    trap on_exit EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    mount -t tmpfs -o mode=0755 tmpfs "$LAB_DIR" || die "cannot mount a tmpfs on $LAB_DIR"
    # What tunlb keeps under /run, such as an undo journal, ends with the lab, too.
    if [ -d /run ]; then
      mount -t tmpfs -o mode=0755 tmpfs /run || die "cannot mount a tmpfs on /run"
    fi
    mkdir "$LAB_DIR/net"
    return 0
  fi
  LAB_OUTSIDE=$(readlink /proc/self/ns/net)
  export LAB_OUTSIDE
  [ -n "${LAB_ENTER+set}" ] || need_namespaces
  run_inside "$@"
}

is_inside() { [ -n "${LAB_OUTSIDE:-}" ] && [ "$LAB_OUTSIDE" != "$(readlink /proc/self/ns/net)" ]; }

need_namespaces() {
  need_tun_device
  choose_namespaces
}

need_tun_device() {
  [ -e /dev/net/tun ] || die "there is no /dev/net/tun; run: sudo modprobe tun"
  if ! [ -r /dev/net/tun ] || ! [ -w /dev/net/tun ]; then
    die "this user may not open /dev/net/tun; run: $(as_root)"
  fi
}

# The command that runs this lab as root, with a binary that this user built.
as_root() {
  local build=() tunlb=${TUNLB:-$(built_tunlb)}
  if [ ! -x "$tunlb" ]; then
    build=(cargo build --release)
    [ "$PWD" = "$LAB_ROOT" ] || build+=(--manifest-path "$(quoted "$LAB_ROOT/Cargo.toml")")
    build+=('&& ')
  fi
  printf '%ssudo TUNLB=%s %s' "${build[*]}" "$(quoted "$(realpath -m "$tunlb")")" "$(quoted "$0")"
}

# Sets LAB_ENTER to the command that enters new namespaces.
choose_namespaces() {
  local user=()
  [ "$EUID" = 0 ] || user=(unshare -Ur)
  # The user namespace is entered by a process of its own: becoming its root would clear the
  # parent-death signal again.
  LAB_ENTER=("${user[@]}" "${DIE_WITH_SHELL[@]}" unshare -nm)
  local pid_namespace=(-p --fork --kill-child --mount-proc)
  if "${LAB_ENTER[@]}" "${pid_namespace[@]}" true 2>/dev/null; then
    LAB_ENTER+=("${pid_namespace[@]}") # some containers forbid a new /proc; the lab works without
  elif ! "${LAB_ENTER[@]}" true 2>/dev/null; then
    die "$(why_no_namespaces)"
  fi
}

why_no_namespaces() {
  if [ "$EUID" = 0 ]; then
    say "root may not make namespaces here; in a container, start it with --privileged"
    return
  fi
  local key value
  while read -r key value; do
    if [ "$(sysctl -n "$key" 2>/dev/null)" = "$value" ]; then
      say "user namespaces are forbidden here ($key=$value); run: $(as_root)"
      return
    fi
  done <<'SYSCTLS'
kernel.apparmor_restrict_unprivileged_userns 1
kernel.unprivileged_userns_clone 0
user.max_user_namespaces 0
SYSCTLS
  say "user namespaces are forbidden here; run: $(as_root)"
}

# run_inside SCRIPT [ARGUMENT…]
run_inside() {
  # In the background, because bash runs a trap only between foreground commands.
  "${LAB_ENTER[@]}" "${BASH:-bash}" "$@" &
  LAB_CHILD=$!
  trap 'stop_inside 130' INT
  trap 'stop_inside 143' TERM HUP
  local code=0
  wait "$LAB_CHILD" || code=$?
  exit "$code"
}

# Lets the inner shell clean up, for two seconds; killing what holds the namespaces does the rest.
stop_inside() {
  trap '' INT TERM HUP
  local inner tries=0
  inner=$(pgrep -P "$LAB_CHILD") || inner=$LAB_CHILD # without a pid namespace they are one
  kill -TERM "$inner" 2>/dev/null || :
  while kill -0 "$LAB_CHILD" 2>/dev/null && [ $((tries += 1)) -le 40 ]; do sleep 0.05; done
  kill -KILL "$LAB_CHILD" 2>/dev/null || :
  exit "$1"
}

# Ends what the lab started. The namespaces end with their last process.
on_exit() {
  local code=$? name
  trap '' INT TERM HUP
  case $code in
    0 | 130 | 143) ;; # all is well, or the user ended it
    *) show_logs >&2 ;;
  esac
  for name in "${!LAB_PIDS[@]}"; do kill -TERM "${LAB_PIDS[$name]}" 2>/dev/null || :; done
  for name in "${!LAB_PIDS[@]}"; do
    wait_until 2 ended "$name" || kill -KILL "${LAB_PIDS[$name]}" 2>/dev/null || :
  done
  exit "$code"
}

show_logs() {
  local log
  for log in "$LAB_DIR"/*.log; do
    if [ -s "$log" ]; then printf -- '--- %s\n' "${log##*/}"; tail -n 20 "$log"; fi
  done
}

# ------------------------------------------------------------------------------ polls and deadlines

# wait_until SECONDS COMMAND…: polls COMMAND; false when it still fails at the deadline.
wait_until() {
  local deadline=$((SECONDS + $1 * LAB_SLOW + 1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.05
  done
}

# wait_for SECONDS DESCRIPTION COMMAND…: the same, and the end of the lab at the deadline.
wait_for() {
  local seconds=$1 description=$2
  shift 2
  wait_until "$seconds" "$@" || fail "waited $((seconds * LAB_SLOW)) s for: $description"
}

# ------------------------------------------------------------------------------- hosts and links

# lone_host ADDRESS/BITS: makes this namespace that of a director alone, whose backends need not answer.
lone_host() {
  ip link set lo up
  ip link add d0 type veth peer name d1
  ip addr add "$1" dev d0
  ip link set d0 up
  ip link set d1 up
  sysctl -qw net.ipv4.ip_forward=1
}

# add_host NAME: a network namespace with lo up. IPv6 is off: its neighbour discovery would only
# blur the counters (see enable_ipv6). Reverse-path filtering starts off, whatever the machine's
# default.
add_host() {
  local handle=$LAB_DIR/net/$LAB-$1
  : >"$handle"
  unshare --net="$handle" true || die "cannot make a network namespace"
  if [ -e /proc/sys/net/ipv6 ]; then
    set_sysctl "$1" net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
  fi
  set_sysctl "$1" net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
  on "$1" ip link set lo up
}

# enable_ipv6 HOST: on what it has and will have.
enable_ipv6() {
  [ -e /proc/sys/net/ipv6 ] || die "this kernel has no IPv6"
  set_sysctl "$1" net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0
}

# on HOST COMMAND…: runs COMMAND on a host of the lab.
on() {
  if [ "${LAB_VERBOSE:-0}" = 1 ]; then printf '  %s# %s\n' "$1" "${*:2}" >&2; fi
  nsenter --net="$LAB_DIR/net/$LAB-$1" "${@:2}"
}

# set_sysctl HOST KEY=VALUE…
set_sysctl() {
  on "$1" sysctl -qw "${@:2}" || die "cannot set ${*:2} on $1"
}

# cable HOST DEVICE HOST DEVICE: a veth pair, both ends up.
cable() {
  ip link add "$2" netns "$LAB_DIR/net/$LAB-$1" type veth \
    peer name "$4" netns "$LAB_DIR/net/$LAB-$3" || die "cannot make a veth pair $1 - $3"
  on "$1" ip link set "$2" up
  on "$3" ip link set "$4" up
}

# set_address HOST DEVICE ADDRESS/LENGTH [DEFAULT_GATEWAY]
set_address() {
  on "$1" ip addr add "$3" dev "$2"
  if [ -n "${4:-}" ]; then on "$1" ip route add default via "$4"; fi
}

# cable_to_router VIP BACKEND-N…: a router with cables to the client (198.51.100.10), to the director (10.0.0.2), which
# has the VIP, and from its devices to-bN to backends whose addresses are the lab's own to set.
cable_to_router() {
  local host
  for host in client router director "${@:2}"; do add_host "$host"; done
  cable client eth0 router to-client
  cable director eth0 router to-director
  for host in "${@:2}"; do cable "$host" eth0 router "to-b${host#backend-}"; done
  set_address client eth0 198.51.100.10/24 198.51.100.1
  set_address director eth0 10.0.0.2/24 10.0.0.1
  set_address router to-client 198.51.100.1/24
  set_address router to-director 10.0.0.1/24
  set_sysctl router net.ipv4.ip_forward=1
  on router ip route add "$1/32" via 10.0.0.2
}

# add_switch HOST DEVICE PORT…: joins devices of HOST to one Ethernet segment.
add_switch() {
  local host=$1 device=$2 port
  on "$host" ip link add "$device" type bridge || die "this kernel has no bridge device"
  for port in "${@:3}"; do on "$host" ip link set "$port" master "$device"; done
  on "$host" ip link set "$device" up
}

# device_counter HOST DEVICE rx_packets|rx_bytes|tx_packets|tx_bytes
device_counter() {
  local column
  case $3 in
    rx_bytes) column=2 ;; rx_packets) column=3 ;; tx_bytes) column=10 ;; tx_packets) column=11 ;;
  esac
  on "$1" cat /proc/net/dev | tr : ' ' | awk -v d="$2" -v c="$column" '$1 == d { print $c }'
}

# kernel_counter HOST FILE GROUP NAME: as nstat shows it, such as `HOST netstat TcpExt ListenDrops`.
kernel_counter() {
  on "$1" cat "/proc/net/$2" | awk -v group="$3:" -v name="$4" '
    $1 != group { next }
    column { print $column; exit }
    { for (i = 2; i <= NF; i++) if ($i == name) column = i }'
}

# ------------------------------------------------------------------------------------- programs

# start NAME HOST COMMAND…: in the background; output to NAME.out, errors to NAME.log.
start() {
  local name=$1 host=$2
  shift 2
  rm -f "$LAB_DIR/$name".{out,log} # nobody may read what an earlier program of that name said
  nsenter --net="$LAB_DIR/net/$LAB-$host" "${DIE_WITH_SHELL[@]}" "$@" \
    >"$LAB_DIR/$name.out" 2>"$LAB_DIR/$name.log" &
  LAB_PIDS[$name]=$!
}

ended() { ! kill -0 "${LAB_PIDS[$1]}" 2>/dev/null; }

# Without -s grep would complain when it is faster than the program's redirections.
said() { grep -qs -- "$2" "$LAB_DIR/$1.out" "$LAB_DIR/$1.log"; }

said_or_ended() { said "$@" || ended "$1"; }

# wait_for_word WORD NAME…: until each of these programs has printed WORD.
wait_for_word() {
  local word=$1 name
  shift
  for name; do wait_for_one "$name" "$word"; done
}

wait_for_one() {
  wait_for 10 "\"$2\" from $1" said_or_ended "$1" "$2"
  said "$1" "$2" || fail "$1 ended before it said \"$2\""
}

# stop NAME: SIGTERM, and the program must end well.
stop() {
  local code=0
  kill -TERM "${LAB_PIDS[$1]}" 2>/dev/null || fail "$1 had already ended"
  wait_for 5 "$1 to end after SIGTERM" ended "$1"
  wait "${LAB_PIDS[$1]}" || code=$?
  unset "LAB_PIDS[$1]"
  [ "$code" = 0 ] || [ "$code" = 143 ] || fail "$1 ended with code $code"
}

# download_digest BYTES: what sha256sum says of httpd.py's /bytes/BYTES.
download_digest() {
  python3 -c 'import sys; n = int(sys.argv[1])
sys.stdout.buffer.write((bytes(range(251)) * (n // 251 + 1))[:n])' "$1" | sha256sum
}

# ------------------------------------------------------------------------------------- backends

# start_backend HOST VIP PORT DIRECTOR: makes HOST accept tunnels that carry VIP, and starts a
# service there that answers with its name. Sets TUNNEL to the device that inner packets come out of.
# With BY_HAND=1 no program keeps the host's settings, so that a lab can break them.
start_backend() {
  local setup=(--setup)
  start "$1" "$1" "$LAB_ROOT/netns-scripts/httpd.py" "$1" "$2" "$3"
  if [ "${TUNLB_DECAP:-0}" != 1 ] && has_tunnel "$1" tunl0 ipip; then
    TUNNEL=tunl0
    kernel_backend "$1" "$2"
  else
    TUNNEL=decap0
    if [ "${BY_HAND:-0}" = 1 ]; then
      setup=()
      vip_on_lo "$1" "$2"
    fi
    start "decap-$1" "$1" "$TUNLB" decap --vip "$2" --director "$4/32" "${setup[@]}"
  fi
}

# wait_for_backends HOST…
wait_for_backends() {
  wait_for_word listening "$@"
  if [ "$TUNNEL" = decap0 ]; then wait_for_word decapsulating "${@/#/decap-}"; fi
}

# has_tunnel HOST DEVICE KIND: asking for the device loads the module of that kind, and the module
# brings its own device.
has_tunnel() {
  on "$1" ip link add "$2" type "$3" 2>/dev/null || on "$1" ip link show "$2" >/dev/null 2>&1
}

# What a real backend with the kernel's tunnel needs, and no more (see the README).
kernel_backend() {
  on "$1" ip link set tunl0 up
  # The effective value is the larger one of `all` and the device's own. Loose (2) would not do:
  # tunl0 has no address here, and loose drops what comes in by a device without one.
  set_sysctl "$1" net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.tunl0.rp_filter=0
  vip_on_lo "$1" "$2"
}

# vip_on_lo HOST VIP: neither answered for nor announced on the backends' Ethernet.
vip_on_lo() {
  set_sysctl "$1" net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
  on "$1" ip addr add "$2/32" dev lo
}

tunnel_text() {
  case $TUNNEL in
    tunl0) say "the kernel's tunl0" ;;
    *) if [ "${TUNLB_DECAP:-0}" = 1 ]; then say "\`tunlb decap\` (TUNLB_DECAP=1)"; else
      say "\`tunlb decap\` (this kernel has no tunl0: module ipip is missing)"; fi ;;
  esac
}
