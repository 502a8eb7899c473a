#!/usr/bin/env bash
# refusals.sh - `tunlb decap` beside the kernel's own tunnels: it refuses to run where the service
# would get its packets twice, and only there. Runs in the guest, in /vm.
#
# See lib.sh for its environment and its exit codes.
set -euo pipefail
# shellcheck source=netns-scripts/lib.sh
. "$(dirname "$0")/netns-scripts/lib.sh"

VIP4=10.0.0.100
VIP6=2001:db8::100
OTHER=192.0.2.1 # no director

main() {
  no_arguments "$@"
  find_tunlb
  enter_lab "$0" "$@"
  add_host backend
  enable_ipv6 backend
  local device
  for device in tunl0:ipip sit0:sit ip6tnl0:ip6tnl; do
    has_tunnel backend "${device%:*}" "${device#*:}" || die "this kernel has no ${device%:*}"
  done
  modprobe fou

  runs "all of them down" --vip "$VIP4" --vip "$VIP6"
  on backend ip link set tunl0 up
  refuses "the kernel decapsulates already: tunl0 (kind ipip)" "tunl0 up" --vip "$VIP4"
  runs "tunl0 up, which takes no IPv6" --vip "$VIP6"
  runs "tunl0 up, and GUE" --vip "$VIP4" --gue 6080
  on backend ip link set tunl0 down
  on backend ip link set sit0 up
  refuses "the kernel decapsulates already: sit0 (kind sit)" "sit0 up" --vip "$VIP6"
  runs "sit0 up, which takes no IPv4" --vip "$VIP4"
  on backend ip link set sit0 down
  on backend ip link set ip6tnl0 up
  refuses "the kernel decapsulates already: ip6tnl0 (kind ip6tnl)" "ip6tnl0 up" --vip "$VIP6"
  runs "ip6tnl0 up, which takes no IPv4" --vip "$VIP4"
  on backend ip -6 tunnel change ip6tnl0 mode any
  refuses "the kernel decapsulates already: ip6tnl0 (kind ip6tnl)" "ip6tnl0 up, mode any" --vip "$VIP4"
  on backend ip link set ip6tnl0 down

  on backend ip link add far type ipip remote "$OTHER"
  on backend ip link set far up
  runs "a tunnel from elsewhere" --vip "$VIP4" --director 10.0.0.2
  refuses "the kernel decapsulates already: far (kind ipip)" "a tunnel from a director" \
    --vip "$VIP4" --director "$OTHER"

  on backend ip link del far

  names_later tunl0 --vip "$VIP4"
  names_later sit0 --vip "$VIP6"

  on backend ip fou add port 6080 gue
  refuses "UDP port 6080 is in use" "a fou port" --vip "$VIP4" --gue 6080
}

# runs DESCRIPTION ARGUMENT…
runs() {
  start decap backend "$TUNLB" decap --setup "${@:2}"
  wait_for_word decapsulating decap
  stop decap
  say "  runs:    $1"
}

# names_later DEVICE ARGUMENT…: an error as soon as it is up, a word when it is not any more.
names_later() {
  start decap backend "$TUNLB" decap --setup "${@:2}"
  wait_for_word decapsulating decap
  on backend ip link set "$1" up
  wait_for_word "the kernel's tunnel $1 (kind" decap
  on backend ip link set "$1" down
  wait_for_word "no longer: the kernel's tunnel $1" decap
  stop decap
  say "  names:   $1 that comes up later"
}

# refuses REASON DESCRIPTION ARGUMENT…
refuses() {
  local code=0
  on backend timeout $((10 * LAB_SLOW)) "$TUNLB" decap "${@:3}" >"$LAB_DIR/refusal" 2>&1 || code=$?
  [ "$code" = 2 ] || fail "$2: code $code instead of 2: $(cat "$LAB_DIR/refusal")"
  grep -qF "$1" "$LAB_DIR/refusal" || fail "$2: refused without \"$1\": $(cat "$LAB_DIR/refusal")"
  say "  refuses: $2"
}

main "$@"
