#!/usr/bin/env bash
# run.sh - the labs on Debian's stock kernel, with its real tunnels, its fou and its rp_filter.
#
# Boots the kernel of the package linux-image-cloud-amd64 in QEMU, with software emulation (no
# /dev/kvm needed), and runs guest.sh in it. Needs no root, and a Debian machine with these packages:
# qemu-system-x86 e2fsprogs cpio. The first run downloads the guest's packages and keeps the disk
# image in ${XDG_CACHE_HOME:-~/.cache}/tunlb-vm; later runs take about two minutes on two idle CPUs.
#
# Environment: TUNLB, a built binary to use instead of `cargo build --release`;
# VM_TIMEOUT, seconds that the guest may take (900).
# Ends with the line "N passed, N failed". Exit codes: 0 all passed; 1 not; 2 it could not be run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=netns-scripts/lib.sh
. "$here/../../netns-scripts/lib.sh"
# shellcheck source=tests/kernel/image.sh
. "$here/image.sh"
# shellcheck source=tests/kernel/vm.sh
. "$here/vm.sh"

no_arguments "$@"
need qemu-system-x86_64:qemu-system-x86 mke2fs:e2fsprogs cpio:cpio flock:util-linux
command -v apt-get >/dev/null || die "the guest is made of Debian packages; this needs a Debian machine with apt"
find_tunlb

find_image
code=0
run_vm "$here/guest.sh" "$here/refusals.sh" "$here/doctor.sh" "$LAB_ROOT/netns-scripts" \
  "$LAB_ROOT/README.md" "$TUNLB" || code=$?
case $code in
  0 | 1) exit "$code" ;; # guest.sh's own verdict, which ended with its count
  *) say "0 passed, 1 failed (the guest ended without a verdict, code $code)"; exit 1 ;;
esac
