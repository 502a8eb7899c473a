#!/usr/bin/env bash
# guest.sh - the cases that run.sh runs on a stock kernel. Runs as root in the guest, in /vm.
#
# Prints PASS or FAIL for each, and "N passed, N failed" last; exit code 1 when one failed.
set -euo pipefail
# shellcheck source=tests/kernel/checks.sh
. "$(dirname "$0")/checks.sh"

export TUNLB=/vm/tunlb LAB_SLOW=5 # software emulation is slow
DEMO=/vm/netns-scripts/demo.sh
KATRAN=/vm/netns-scripts/katran-241.sh
FAMILIES=/vm/netns-scripts/families.sh
KERNEL_TUNNEL="the kernel's tunl0"
DECAP="tunlb decap"
NOBODY=(setpriv --reuid=65534 --regid=65534 --clear-groups)

main() {
  say "Kernel $(uname -r), $(nproc) emulated CPUs"
  modprobe tun
  chmod 666 /dev/net/tun # as distributions have it

  # Before the first use of tunl0, because that loads the module ipip for good.
  check "health without the module ipip" env HEALTH_CASES=no_module /vm/health.sh
  check "demo with tunlb decap" uses "$DECAP" env TUNLB_DECAP=1 "$DEMO"
  check "katran-241 with tunlb decap" uses "$DECAP" env TUNLB_DECAP=1 "$KATRAN"
  check "all families with tunlb decap" env TUNLB_DECAP=1 "$FAMILIES"
  check "demo with tunl0" uses "$KERNEL_TUNNEL" "$DEMO"
  check "katran-241 with tunl0" uses "$KERNEL_TUNNEL" "$KATRAN"
  check "demo with tunl0, without root" uses "$KERNEL_TUNNEL" "${NOBODY[@]}" "$DEMO"
  check "all families with the kernel's tunnels and fou" ends_in_kernel 8 "$FAMILIES"
  check "all families without root: the kernel's tunnels, and GUE in tunlb decap" \
    ends_in_kernel 4 "${NOBODY[@]}" "$FAMILIES"
  check "the README's commands, with tunlb decap and with tunl0" works_with_tunl0 /vm/netns-scripts/readme.sh
  check "tunlb decap refuses to run beside the kernel's tunnels" /vm/refusals.sh
  check "the doctor on a backend with tunl0" /vm/doctor.sh
  check "health with tunl0 and fou" /vm/health.sh
  check "health without tunl0" without_tunl0 env HEALTH_CASES=no_device /vm/health.sh
  check "demo with tunlb decap beside an idle tunl0" uses "$DECAP" env TUNLB_DECAP=1 "$DEMO"
  check "a killed demo leaves nothing behind" leaves_nothing_when_killed
  check "where namespaces are forbidden, the demo says what to run" says_what_to_run

  verdict
}

# uses TUNNEL COMMAND…: the lab ends well, and said that its tunnels end in TUNNEL.
uses() {
  local tunnel=$1
  shift
  "$@" 2>&1 | tee /tmp/output || return 1
  grep -q "in .\?$tunnel" /tmp/output
}

# ends_in_kernel COUNT COMMAND…: the lab ends well, with so many combinations in the kernel's devices.
ends_in_kernel() {
  local count=$1
  shift
  "$@" 2>&1 | tee /tmp/output || return 1
  [ "$(grep -cE '(tunl0|sit0|ip6tnl0)$' /tmp/output)" = "$count" ]
}

# without_tunl0 COMMAND…: in namespaces made now, which get no tunl0 of their own.
without_tunl0() {
  local code=0
  sysctl -qw net.core.fb_tunnels_only_for_init_net=1
  "$@" || code=$?
  sysctl -qw net.core.fb_tunnels_only_for_init_net=0
  return "$code"
}

# works_with_tunl0 COMMAND…: the lab ends well, and its proof went through the kernel's tunnel, too.
works_with_tunl0() {
  "$@" 2>&1 | tee /tmp/output || return 1
  grep -q "the kernel's tunl0: backend-2 answered" /tmp/output
}

# What a lab could leave on the host.
host_state() {
  ip -brief link
  ip route show table all
  find /run /dev/shm
  sysctl -a 2>/dev/null | grep -E '^net\.ipv4\.(conf|ip_forward)'
  cat /proc/mounts
  pgrep -af 'tunlb|httpd|demo' || :
}

leaves_nothing_when_killed() {
  local pid signal
  host_state >/tmp/before
  for signal in KILL TERM; do
    "$DEMO" >/tmp/output 2>&1 &
    pid=$!
    until grep -q "Tunnels end" /tmp/output; do
      kill -0 "$pid" || { cat /tmp/output; return 1; }
      sleep 0.1
    done
    kill -"$signal" "$pid"
    wait "$pid" || :
    is_gone || return 1
  done
}

# The kernel takes namespaces down a moment after their last process.
is_gone() {
  local tries=0
  until host_state >/tmp/after && cmp -s /tmp/before /tmp/after; do
    [ $((tries += 1)) -lt 50 ] || { diff /tmp/before /tmp/after; return 1; }
    sleep 0.1
  done
}

says_what_to_run() {
  local code=0
  sysctl -qw kernel.unprivileged_userns_clone=0
  "${NOBODY[@]}" "$DEMO" >/tmp/output 2>&1 || code=$?
  sysctl -qw kernel.unprivileged_userns_clone=1
  cat /tmp/output
  [ "$code" = 2 ] && grep -qF "run: sudo TUNLB=$TUNLB $DEMO" /tmp/output
}

main
