# shellcheck shell=bash
# vm.sh - one run of a throw-away virtual machine from the image that image.sh made. Sourced by run.sh.
#
# The guest has no network card: only what its script makes. The root disk is a snapshot, so every
# run starts from the same bytes. Software emulation, because /dev/kvm is rare where CI runs.

VM_TIMEOUT=${VM_TIMEOUT:-900}
VM_CPUS=2
VM_MEMORY_MIB=1024
VM_INIT=script # or systemd, which then runs the script

# run_vm SCRIPT FILE…: runs SCRIPT as root in the guest, in /vm beside the FILEs (or folders); its
# output comes to stdout. Returns its exit code; 124 at the time limit; 125 when the guest died.
run_vm() {
  rm -rf "${VM_RUN:-}"
  VM_RUN=$(mktemp -d "$IMAGE_CACHE/run.XXXXXX")
  trap 'rm -rf "${VM_RUN:?}"' EXIT
  pack_files "$@"

  local code=0
  boot || code=$?
  if [ -s "$VM_RUN/code" ]; then return "$(cat "$VM_RUN/code")"; fi
  say "The guest ended without an exit code (qemu's: $code). The end of its console:" >&2
  tail -n 40 "$VM_RUN/qemu.log" "$VM_RUN/console" >&2 || :
  if [ "$code" = 124 ] || [ "$code" = 137 ]; then return 124; fi
  return 125
}

# The second disk is the tar itself.
pack_files() {
  local file arguments=()
  mkdir "$VM_RUN/files"
  printf 'export VM_SCRIPT=%q VM_INIT=%q\n' "${1##*/}" "$VM_INIT" >"$VM_RUN/files/environment"
  for file; do arguments+=(-C "$(dirname "$file")" "$(basename "$file")"); done
  tar --owner=0 --group=0 -h -cf "$VM_RUN/files.tar" -C "$VM_RUN/files" environment "${arguments[@]}"
  truncate -s %1M "$VM_RUN/files.tar"
}

boot() {
  # At the end of its input qemu would close the port, so the input is a pipe that never ends.
  mkfifo "$VM_RUN/input"
  exec 8<>"$VM_RUN/input"
  # A CPU without AVX: the binary must run on any x86-64. TMPDIR holds the disk's snapshot.
  TMPDIR=$VM_RUN timeout --foreground -k 5 "$VM_TIMEOUT" qemu-system-x86_64 \
    -nodefaults -no-user-config -no-reboot -display none -nic none \
    -M q35 -cpu Nehalem -smp "$VM_CPUS" -m "$VM_MEMORY_MIB" -accel tcg,thread=multi \
    -kernel "$IMAGE/vmlinuz" -initrd "$IMAGE/initrd.gz" \
    -append "console=ttyS0 panic=-1 quiet mitigations=off no_timer_check tsc=reliable" \
    -chardev file,id=console,path="$VM_RUN/console" -serial chardev:console \
    -device virtio-serial-pci \
    -chardev stdio,id=output,signal=off -device virtserialport,chardev=output,name=output \
    -chardev file,id=code,path="$VM_RUN/code" -device virtserialport,chardev=code,name=code \
    -drive "if=none,id=root,file=$IMAGE/root.ext4,format=raw,snapshot=on" \
    -device virtio-blk-pci,drive=root,serial=root \
    -drive "if=none,id=files,file=$VM_RUN/files.tar,format=raw,readonly=on" \
    -device virtio-blk-pci,drive=files,serial=files \
    <&8 2>"$VM_RUN/qemu.log"
}
