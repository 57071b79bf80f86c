#!/usr/bin/env bash
# In place of nvidia-container-cli, the one program of NVIDIA's legacy mode that cannot be built here: called by NVIDIA's own hook with the
# arguments of that program, it leaves in the container what that leaves, which are device files, the driver's libraries in the image's
# library folder whatever folder the host has them in, and an ld.so.cache that names them. What it does not know it refuses.
#   container-cli.sh … --root=DRIVER-ROOT … configure … --ldconfig=@PROGRAM --device=ID --pid=PID ROOT
set -euo pipefail
libraries=/usr/lib/$(uname -m)-linux-gnu driver_root=
for word in "${@:1:$#-1}"; do
  case $word in
    --root=*) driver_root=${word#*=} ;;
    --pid=*) pid=${word#*=} ;;
    --ldconfig=@*) ldconfig=${word#*@} ;;
    --device=0 | --load-kmods | --compute | --utility | --cuda-compat-mode=ldconfig | configure) ;;
    *) echo "container-cli.sh: $word is not known here" >&2; exit 1 ;;
  esac
done
# In the container's mount namespace, whose root is the host's still.
[ "${inside:-}" ] || inside=yes exec nsenter --mount="/proc/$pid/ns/mnt" "$0" "$@"
root=${!#}
lay() { mkdir -p "${2%/*}"; touch "$2"; mount --bind "$1" "$2"; }
for device in /run/nvidia-devices/dev/*; do lay "$device" "$root/dev/${device##*/}"; done
for file in "$driver_root$libraries"/nvidia/current/lib*.so.*.*; do lay "$file" "$root$libraries/${file##*/}"; done
"$ldconfig" -r "$root"
