#!/usr/bin/env bash
# health.sh - health checks with the kernel's own tunl0 and fou, and its real ICMP errors: each fault of a backend alone has
# its result, its cause and the doctor's rows, in `tunlb status` and in `tunlb probe`. Runs in the guest, in /vm.
#
#   10.0.1.0/24, one cable: backend .11, the VIP 10.0.0.100 on its lo ── director .2
#
# HEALTH_CASES: "no_module": before ipip was ever loaded; "no_device": where namespaces get no tunl0; else all others.
# See lib.sh for its environment and its exit codes.
set -euo pipefail
# shellcheck source=netns-scripts/lib.sh
. "$(dirname "$0")/netns-scripts/lib.sh"

VIP=10.0.0.100
BACKEND=10.0.1.11
DIRECTOR=10.0.1.2
GUE_PORT=6080
told=0

main() {
  no_arguments "$@"
  find_tunlb
  enter_lab "$0" "$@"
  add_host backend
  add_host director
  cable backend eth0 director eth0
  on backend ip addr add "$BACKEND/24" dev eth0
  on director ip addr add "$DIRECTOR/24" dev eth0
  start httpd backend "$LAB_ROOT/netns-scripts/httpd.py" backend "$VIP" 80
  vip_on_lo backend "$VIP"
  case ${HEALTH_CASES:-} in
    no_module | no_device) "$HEALTH_CASES" ;;
    *) with_tunl0; with_fou ;;
  esac
  say "OK: $told cases told as they are."
}

# The kernel has no handler for protocol 4: ICMP 3/2.
no_module() {
  [ ! -e /sys/module/ipip ] || die "the module ipip is loaded"
  run_director 'kind = "ipip"'
  # A host sends one ICMP error a second, so that not every probe has one.
  unhealthy "no module ipip" "no_decapsulator no_answer" B1
  stop director
}

# It has the handler and no device: ICMP 3/3, quoting protocol 4.
no_device() {
  [ -e /sys/module/ipip ] || die "the module ipip is not loaded"
  ! on backend ip link show tunl0 >/dev/null 2>&1 || die "the backend has a tunl0"
  run_director 'kind = "ipip"'
  unhealthy "no tunl0 in this namespace" "no_decapsulator no_answer" B3
  stop director
}

with_tunl0() {
  has_tunnel backend tunl0 ipip || die "this kernel has no tunl0"
  kernel_tunnel
  run_director 'kind = "ipip"'
  healthy "tunl0"
  fault "no_decapsulator no_answer" B2 "tunl0 is down" "ip link set tunl0 down" "ip link set tunl0 up"
  fault no_answer B5 "no VIP" "ip addr del $VIP/32 dev lo" "ip addr add $VIP/32 dev lo"
  fault no_answer B10 "rp_filter is 1 on tunl0" \
    "sysctl -qw net.ipv4.conf.tunl0.rp_filter=1" "sysctl -qw net.ipv4.conf.tunl0.rp_filter=0"
  fault no_answer B11 "rp_filter is 2 and tunl0 has no address" \
    "sysctl -qw net.ipv4.conf.tunl0.rp_filter=2" "sysctl -qw net.ipv4.conf.tunl0.rp_filter=0"
  stop httpd
  unhealthy "nothing listens" refused B30
  start httpd backend "$LAB_ROOT/netns-scripts/httpd.py" backend "$VIP" 80
  healthy "tunl0 again"
  strict_director
  stop director
}

# On the director itself.
strict_director() {
  set_sysctl director net.ipv4.conf.all.rp_filter=1
  unhealthy "the director's own rp_filter is 1 on all" no_answer D36
  set_sysctl director net.ipv4.conf.all.rp_filter=0
  healthy "the director's rp_filter is 0"
}

with_fou() {
  on backend modprobe fou
  run_director 'kind = "gue"' "port = $GUE_PORT"
  unhealthy "the GUE port is not bound" "tunnel_port no_answer" B4
  on backend ip fou add port "$GUE_PORT" gue
  healthy "fou and tunl0"
  stop director
}

kernel_tunnel() {
  on backend ip link set tunl0 up
  set_sysctl backend net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.tunl0.rp_filter=0
}

# run_director KEYS…: of its tunnels.
run_director() {
  {
    printf '%s\n' '[director.encap]' "$@"
    cat <<TOML
[[vip]]
name = "web"
address = "$VIP"
port = 80
backend = [{ address = "$BACKEND" }]
[vip.health]
interval = "500ms"
timeout = "1s"
rise = 2
fall = 2
TOML
  } >"$LAB_DIR/tunlb.toml"
  start director director "$TUNLB" run -c "$LAB_DIR/tunlb.toml" --setup
  wait_for_word forwarding director
}

# fault "RESULT…" CODE DESCRIPTION INJECT UNDO
fault() {
  on backend bash -c "$4" || fail "$3: cannot be made"
  unhealthy "$3" "$1" "$2"
  on backend bash -c "$5" || fail "$3: cannot be undone"
  healthy "$3, undone"
}

healthy() {
  wait_for 20 "$1: healthy" says healthy ok ""
  look 0 "1 of 1 answer"
  told=$((told + 1))
  say "  healthy: $1"
}

# unhealthy DESCRIPTION RESULT CODE
unhealthy() {
  wait_for 20 "$1: $2, $3" says unhealthy "$2" "$3"
  look 1 "$3"
  told=$((told + 1))
  say "  $2, $3: $1"
}

# says STATUS RESULT CODE|"": what `tunlb status` says of the backend.
says() {
  on director "$TUNLB" status --json >"$LAB_DIR/status.json" 2>/dev/null || return 1
  python3 - "$LAB_DIR/status.json" "$@" <<'PYTHON'
import json, sys
path, status, result, code = sys.argv[1:]
health = json.load(open(path))["vips"][0]["backends"][0]["health"]
codes = (health["cause"] or {"codes": []})["codes"]
right = health["status"] == status and (health["result"] or "") in result.split()
sys.exit(not (right and (not code or code in codes)))
PYTHON
}

# look CODE WORDS: `tunlb probe` ends with that exit code, and says so.
look() {
  local code=0
  on director "$TUNLB" probe -c "$LAB_DIR/tunlb.toml" >"$LAB_DIR/probe.log" 2>&1 || code=$?
  [ "$code" = "$1" ] || fail "tunlb probe ended with code $code: $(cat "$LAB_DIR/probe.log")"
  grep -qF -- "$2" "$LAB_DIR/probe.log" || fail "tunlb probe does not say \"$2\": $(cat "$LAB_DIR/probe.log")"
}

main "$@"
