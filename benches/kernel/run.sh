#!/usr/bin/env bash
# run.sh - tunlb beside the kernel's own balancer (IPVS) and its own tunnel (tunl0), on Debian's stock kernel.
#
# Boots the guest of tests/kernel, with ipvsadm added, in QEMU with software emulation: any Debian machine has
# one, where modules of the running kernel are often missing. Emulation weighs instructions, not caches, so
# only figures of one such run compare, and only as ratios. Leave the machine alone meanwhile.
#
#   benches/kernel/run.sh [ROUNDS [SECONDS]]      3 rounds of 3 seconds for each contender
#
# Environment: TUNLB and DATAPATH, built binaries of tunlb and of `cargo bench --bench datapath --no-run` to use
# instead of building them; VM_TIMEOUT, seconds that the guest may take (1800).
# Exit codes: 0 measured; 1 not; 2 it could not be run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
VM_TIMEOUT=${VM_TIMEOUT:-1800}
# shellcheck source=netns-scripts/lib.sh
. "$here/../../netns-scripts/lib.sh"
# shellcheck source=tests/kernel/image.sh
. "$LAB_ROOT/tests/kernel/image.sh"
# shellcheck source=tests/kernel/vm.sh
. "$LAB_ROOT/tests/kernel/vm.sh"

case ${1:-} in -h | --help) no_arguments --help ;; esac
need qemu-system-x86_64:qemu-system-x86 mke2fs:e2fsprogs cpio:cpio flock:util-linux jq:jq
command -v apt-get >/dev/null || die "the guest is made of Debian packages; this needs a Debian machine with apt"
find_tunlb
if [ -z "${DATAPATH:-}" ]; then
  DATAPATH=$(cargo bench --locked --bench datapath --no-run --message-format json \
    --manifest-path "$LAB_ROOT/Cargo.toml" | jq -r 'select(.target.name == "datapath").executable // empty')
fi
[ -x "$DATAPATH" ] || die "no such program: $DATAPATH"

IMAGE_PACKAGES+=(ipvsadm)
find_image
files=$(mktemp -d)
cp "$TUNLB" "$files/tunlb"
cp "$DATAPATH" "$files/datapath"
printf 'ROUNDS=%q\nSECONDS_EACH=%q\n' "${1:-3}" "${2:-3}" >"$files/how-long"
code=0
run_vm "$here/guest.sh" "$LAB_ROOT/netns-scripts" "$files/tunlb" "$files/datapath" "$files/how-long" || code=$?
rm -rf "$files"
[ "$code" = 0 ] || { say "the guest ended with code $code" >&2; exit 1; }
