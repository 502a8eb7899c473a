#!/bin/bash
# guest-init.sh - PID 1 of the guest: runs /vm/$VM_SCRIPT, reports its exit code, powers off.
# Its output and its code leave by two virtio ports; /vm is unpacked from the second disk, a tar.
# Where VM_INIT is systemd, that becomes PID 1 and runs the script as a service.

export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8
# virtio_port NAME: its device.
virtio_port() {
  local port
  for port in /sys/class/virtio-ports/*; do
    if [ "$(cat "$port/name")" = "$1" ]; then echo "/dev/${port##*/}"; fi
  done
}

# disk SERIAL: its device.
disk() {
  local block
  for block in /sys/block/vd*; do
    if [ "$(cat "$block/serial")" = "$1" ]; then echo "/dev/${block##*/}"; fi
  done
}

prepare() {
  local directory
  for directory in /run /tmp /vm; do mount -t tmpfs -o mode=1777 tmpfs "$directory"; done
  mkdir -p /dev/shm
  mount -t tmpfs -o mode=1777 tmpfs /dev/shm
  modprobe virtio_console
  ip link set lo up
  tar -xf "$(disk files)" -C /vm
}

# As a service of the target that systemd starts.
be_systemd() {
  local units=/run/systemd/system
  chmod 755 /run
  systemd-id128 new >/etc/machine-id # else it is a first boot, which asks questions
  mkdir -p "$units/vm.target.wants"
  printf '[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n' >"$units/vm.target"
  printf '[Unit]\nAfter=basic.target\n[Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart=/sbin/guest-init run\n' \
    >"$units/vm.service"
  ln -s ../vm.service "$units/vm.target.wants/vm.service"
  exec /usr/lib/systemd/systemd --unit=vm.target
}

run_script() {
  cd /vm || exit
  "/vm/$VM_SCRIPT" </dev/null >"$(virtio_port output)" 2>&1
  echo $? >"$(virtio_port code)"
  busybox reboot -f
}

[ "${1:-}" = run ] || prepare
# shellcheck source=/dev/null
. /vm/environment
if [ "${1:-}" != run ] && [ "$VM_INIT" = systemd ]; then be_systemd; fi
run_script
