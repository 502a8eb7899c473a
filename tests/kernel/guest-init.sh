#!/bin/bash
# guest-init.sh - PID 1 of the guest: runs /vm/$VM_SCRIPT, reports its exit code, powers off.
# Its output and its code leave by two virtio ports; /vm is unpacked from the second disk, a tar.

export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8
for directory in /run /tmp /vm; do mount -t tmpfs -o mode=1777 tmpfs "$directory"; done
mkdir -p /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
modprobe virtio_console
ip link set lo up

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

output=$(virtio_port output)
tar -xf "$(disk files)" -C /vm
# shellcheck source=/dev/null
. /vm/environment
cd /vm || exit
"/vm/$VM_SCRIPT" </dev/null >"$output" 2>&1
code=$?
echo "$code" >"$(virtio_port code)"
busybox reboot -f
