#!/bin/busybox sh
# shellcheck shell=dash
# initramfs-init.sh - first program of the guest: finds the root disk and hands over to it.

/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done </modules/order

root_disk() {
  for disk in /sys/block/vd*; do
    [ "$(cat "$disk/serial" 2>/dev/null)" = root ] && echo "/dev/${disk##*/}"
  done
}

tries=0
while [ -z "$(root_disk)" ] && [ $tries -lt 200 ]; do
  tries=$((tries + 1))
  usleep 50000
done
mount -t ext4 -o noatime "$(root_disk)" /new || { echo "no root disk"; reboot -f; }
for directory in proc sys dev; do mount --move "/$directory" "/new/$directory"; done
exec switch_root /new /sbin/guest-init
