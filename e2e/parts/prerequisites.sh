#!/usr/bin/env bash
# Says in one line which programs the tests and the demonstration lack, or installs them when root on Debian:
#   prerequisites.sh [--require]
. "$(dirname "$0")/shelf.sh"
take_require "$@"

packages=()
needs() { command -v "$1" >/dev/null || [ -x "/sbin/$1" ] || packages+=("$2"); }   # needs PROGRAM PACKAGE
needs gcc gcc
needs python3 python3
needs xz xz-utils
needs zstd zstd
needs mkfs.ext4 e2fsprogs
needs flock util-linux
needs openssl openssl
python3 -m pip --version >/dev/null 2>&1 || packages+=(python3-pip)
[ -e /usr/include/dlfcn.h ] || packages+=(libc6-dev)
if [ "$(id -u)" = 0 ]; then   # a whole cluster needs root
  needs nft nftables
  needs ip iproute2
  needs busybox busybox-static
  needs lowntfs-3g ntfs-3g   # a file system that folds case, whatever the kernel has
  needs pkg-config pkg-config
  needs strace strace   # kills the agent at a system call of one's choice
  [ -e /usr/include/seccomp.h ] || packages+=(libseccomp-dev)
fi
[ ${#packages[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing ${packages[*]}"
  if apt-get -qq update >/dev/null 2>&1 && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${packages[@]}" >/dev/null; then
    exit 0
  fi
fi
echo "please install: ${packages[*]}" >&2
missing=("${packages[@]}")
finish
