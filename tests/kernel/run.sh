#!/usr/bin/env bash
# run.sh - the labs on Debian's stock kernel, with its real tunnels, its fou and its rp_filter; and the units of
# packaging/ under a real systemd.
#
# Boots the kernel of the package linux-image-cloud-amd64 in QEMU, with software emulation (no
# /dev/kvm needed), and runs guest.sh in it; then boots it once more with systemd as its first process, for
# systemd.sh. An argument names the only one to run: labs or systemd. Needs no root, and a Debian machine with these packages:
# qemu-system-x86 e2fsprogs cpio. The first run downloads the guest's packages and keeps the disk
# image in ${XDG_CACHE_HOME:-~/.cache}/tunlb-vm; later runs take about two minutes on two idle CPUs.
#
# Environment: TUNLB, a built binary to use instead of `cargo build --release`;
# VM_TIMEOUT, seconds that each guest may take (900).
# Each ends with the line "N passed, N failed". Exit codes: 0 all passed; 1 not; 2 it could not be run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=netns-scripts/lib.sh
. "$here/../../netns-scripts/lib.sh"
# shellcheck source=tests/kernel/image.sh
. "$here/image.sh"
# shellcheck source=tests/kernel/vm.sh
. "$here/vm.sh"

need qemu-system-x86_64:qemu-system-x86 mke2fs:e2fsprogs cpio:cpio flock:util-linux
command -v apt-get >/dev/null || die "the guest is made of Debian packages; this needs a Debian machine with apt"
find_tunlb

failed=0

# judge SCRIPT FILE…: the guest's own verdict, which ends with its count, or that it gave none.
judge() {
  local code=0
  run_vm "$@" || code=$?
  case $code in
    0) return ;;
    1) ;;
    *) say "0 passed, 1 failed (the guest ended without a verdict, code $code)" ;;
  esac
  failed=1
}

labs() {
  judge "$here/guest.sh" "$here/checks.sh" "$here/refusals.sh" "$here/doctor.sh" "$here/health.sh" "$LAB_ROOT/netns-scripts" \
    "$LAB_ROOT/README.md" "$TUNLB"
}

units() {
  VM_INIT=systemd
  judge "$here/systemd.sh" "$here/checks.sh" "$LAB_ROOT/netns-scripts" "$LAB_ROOT"/packaging/{systemd,sysusers.d} "$TUNLB"
}

find_image
case ${1:-} in
  '') labs; units ;;
  labs) labs ;;
  systemd) units ;;
  *) die "unknown argument \"$1\": labs or systemd" ;;
esac
exit "$failed"
