#!/usr/bin/env bash
# What a node shows of an NVIDIA driver, inside that node's mount namespace:
#   driver.sh load VERSION ROOT operator|host    ROOT: the driver's files, as a distribution lays them out
#   driver.sh unload
#   driver.sh NAME                               loads what the table $DRIVERS has for the node: lines `NAME VERSION ROOT operator|host`
# The files are real, and lie where a GPU Operator's driver container shows them or among the machine's own libraries. The one
# thing that is not real is the kernel module: no module is loaded, only the file with its version is there.
set -euo pipefail
libraries=/usr/lib/$(uname -m)-linux-gnu

load() {
  local version=$1 root=$2 place=$3
  mountpoint -q /proc/driver || mount -t tmpfs -o mode=755 tmpfs /proc/driver
  mkdir -p /proc/driver/nvidia
  printf 'NVRM version: NVIDIA UNIX %s Kernel Module  %s  Tue Oct  8 16:30:26 UTC 2024\n' "$(uname -m)" "$version" >/proc/driver/nvidia/version
  case $place in
    operator)
      mkdir -p /run/nvidia/driver /run/nvidia/validations
      mount --bind "$root" /run/nvidia/driver
      mount -o remount,bind,ro /run/nvidia/driver
      printf 'IS_HOST_DRIVER=false\nNVIDIA_DRIVER_ROOT=/run/nvidia/driver\nDRIVER_ROOT_CTR_PATH=/driver-root\n' >/run/nvidia/validations/driver-ready ;;
    host) mount -t overlay -o "ro,lowerdir=$root$libraries:$libraries" overlay "$libraries" ;;
    *) echo "driver.sh: no such place: $place" >&2; exit 2 ;;
  esac
}

# As a driver container does at its end: nobody may hold anything of it, or this fails.
unload() {
  rm -f /run/nvidia/validations/driver-ready
  ! mountpoint -q /run/nvidia/driver || umount /run/nvidia/driver
  ! mountpoint -q "$libraries" || umount "$libraries"
  rm -rf /proc/driver/nvidia
}

case $1 in
  load | unload) "$@" ;;
  *)
    while read -r name version root place; do
      [ "$name" != "$1" ] || load "$version" "$root" "$place"
    done <<<"${DRIVERS:-}" ;;
esac
