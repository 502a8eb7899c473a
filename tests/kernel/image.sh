# shellcheck shell=bash
# image.sh - the guest's kernel, initramfs and root disk, made of Debian packages. Sourced by run.sh.
#
# Everything is downloaded with a private apt state and unpacked into the cache: nothing is
# installed on this machine, and nothing outside the cache is written.

IMAGE_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/tunlb-vm
IMAGE_PACKAGES=(base-files base-passwd bash dash coreutils sed grep mawk tar findutils diffutils util-linux
  mount kmod procps libc-bin busybox-static iproute2 python3 curl systemd udev dbus)
IMAGE_SOURCES=$(dirname "${BASH_SOURCE[0]}")

# Sets IMAGE to a folder with vmlinuz, initrd.gz and root.ext4, making it when it is not cached.
find_image() {
  IMAGE=$IMAGE_CACHE/image-$(image_key)
  [ ! -e "$IMAGE/root.ext4" ] || return 0
  mkdir -p "$IMAGE_CACHE"
  exec 9>"$IMAGE_CACHE/lock"
  flock 9
  if [ ! -e "$IMAGE/root.ext4" ]; then
    say "Preparing the guest in $IMAGE (once)."
    make_image
  fi
  exec 9>&-
}

# The image is as its recipe, its packages and the distribution's release are.
image_key() {
  {
    cat "$IMAGE_SOURCES"/{image.sh,initramfs-init.sh,guest-init.sh}
    printf '%s\n' "${IMAGE_PACKAGES[@]}"
    grep -E '^(ID|VERSION_CODENAME)=' /etc/os-release
  } | sha256sum | cut -c1-12
}

make_image() {
  local work=$IMAGE.partial as_root=()
  rm -rf "$work"
  mkdir -p "$work"
  # The files of the disk must be root's; in a user namespace of its own a user is root enough.
  [ "$EUID" = 0 ] || as_root=(unshare -r)
  export -f fill_image unpack_packages write_root write_initramfs private_apt
  export work IMAGE_SOURCES
  "${as_root[@]}" bash -euo pipefail -c 'fill_image "$@"' bash "${IMAGE_PACKAGES[@]}" >"$work.log" 2>&1 || {
    tail -n 20 "$work.log" >&2
    die "cannot prepare the guest; all of it is in $work.log"
  }
  rm -rf "$IMAGE"
  mv "$work" "$IMAGE"
  rm -f "$work.log"
}

# fill_image PACKAGE…: vmlinuz, initrd.gz and root.ext4 in $work.
fill_image() {
  local root=$work/root version size_mib
  mkdir -p "$work"/{apt/lists/partial,apt/cache/archives/partial}
  : >"$work/apt/status"
  private_apt update
  unpack_packages "$root" "$@"
  version=$(ls "$root/usr/lib/modules")
  write_root "$root" "$version"
  write_initramfs "$root" "$version"
  cp "$root/boot/vmlinuz-$version" "$work/vmlinuz"
  size_mib=$(du -sm "$root" | cut -f1)
  mke2fs -q -F -t ext4 -O ^has_journal -m 0 -E root_owner=0:0 -d "$root" \
    "$work/root.ext4" $((size_mib + size_mib / 4 + 64))M
  rm -rf "$root" "$work/initramfs" "$work/apt"
}

# apt with an empty list of installed packages: it downloads the whole closure of what is asked for.
private_apt() {
  apt-get -q -o APT::Sandbox::User=root -o Debug::NoLocking=1 -o Dir::State="$work/apt" \
    -o Dir::State::status="$work/apt/status" -o Dir::Cache="$work/apt/cache" \
    --no-install-recommends "$@"
}

# unpack_packages ROOT PACKAGE…: and the kernel, whose own dependencies (a boot loader's) are left out.
unpack_packages() {
  local root=$1 kernel deb directory
  shift
  private_apt --download-only -y install "$@"
  kernel=$(apt-cache -o Dir::State="$work/apt" -o Dir::State::status="$work/apt/status" \
    -o Dir::Cache="$work/apt/cache" depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
  [ -n "$kernel" ] || { echo "no package linux-image-cloud-amd64 in this machine's sources"; return 1; }
  (cd "$work/apt/cache/archives" && private_apt download "$kernel")

  mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
  for directory in bin sbin lib lib64; do ln -s "usr/$directory" "$root/$directory"; done
  for deb in "$work"/apt/cache/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x --no-same-owner --keep-directory-symlink -C "$root" \
      --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*'
  done
}

# What the packages' own installation scripts would have done, as far as the labs need it.
write_root() {
  local root=$1 version=$2
  mkdir -p "$root"/{proc,sys,dev,run,tmp,vm,root}
  [ -e "$root/bin/sh" ] || ln -s dash "$root/usr/bin/sh"
  ln -sfn mawk "$root/usr/bin/awk"
  cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
  cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
  echo '127.0.0.1 localhost' >"$root/etc/hosts"
  chroot "$root" /usr/sbin/ldconfig
  chroot "$root" /usr/sbin/depmod "$version"
  chroot "$root" python3 -m compileall -q /usr/lib/python3* # else each boot would compile anew
  install -m 755 "$IMAGE_SOURCES/guest-init.sh" "$root/sbin/guest-init"
}

# Busybox and the modules of the root disk.
write_initramfs() {
  local root=$1 version=$2 initramfs=$work/initramfs module
  mkdir -p "$initramfs"/{bin,dev,proc,sys,new,modules}
  cp "$root/usr/bin/busybox" "$initramfs/bin/"
  install -m 755 "$IMAGE_SOURCES/initramfs-init.sh" "$initramfs/init"
  chroot "$root" /usr/sbin/modprobe -S "$version" -a --show-depends virtio_pci virtio_blk |
    awk '$1 == "insmod" && !seen[$2]++ { print $2 }' |
    while read -r module; do
      cp "$root/$module" "$initramfs/modules/"
      echo "${module##*/}" >>"$initramfs/modules/order"
    done
  (cd "$initramfs" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd.gz"
}
