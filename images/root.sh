#!/usr/bin/env bash
# Lays out the root file system of an image: one program, and what it needs of the machine it was built on; no shell, nothing else.
#   root.sh PROGRAM TO    PROGRAM: the file; TO: a folder that does not exist yet
set -euo pipefail
export LC_ALL=C
program=$1 to=$2
umask 022
mkdir -p "$to"/{etc/ssl/certs,tmp,usr/bin,usr/share/doc,var/lib,run}
chmod 1777 "$to/tmp"

name=$(basename "$program")
strip -o "$to/usr/bin/$name" "$program"
chmod 755 "$to/usr/bin/$name"

# The loader by its own name in the program, the libraries beside the machine's libc. The last three hold nothing in today's
# glibc, but NVIDIA's management library, which node-agent opens at run time, still names them.
loader=$(readelf -l "$program" | sed -nE 's|.*interpreter: (.*)\]|\1|p')
libraries=$(ldd "$program" | sed -nE 's|.* => (/[^ ]+).*|\1|p')
libc=$(grep -E '/libc\.so\.6$' <<<"$libraries")
packages=()
put() {   # put FROM TO: the file itself, whatever links lead to it
  install -D -m 755 "$(readlink -f "$1")" "$to$2"
  local owner
  owner=$(dpkg -S "$(readlink -f "$1")" 2>/dev/null || dpkg -S "$1" 2>/dev/null || true)
  [ -z "$owner" ] || packages+=("${owner%%:*}")
}
put "$loader" "$loader"
for library in $libraries "${libc%/*}"/{libpthread.so.0,libdl.so.2,librt.so.1}; do
  [ ! -e "$library" ] || put "$library" "${libc%/*}/${library##*/}"
done

certificates=/etc/ssl/certs/ca-certificates.crt
[ -s "$certificates" ] || { echo "root.sh: $certificates is missing: install ca-certificates" >&2; exit 1; }
install -m 644 "$certificates" "$to$certificates"
packages+=(ca-certificates)
for package in $(printf '%s\n' "${packages[@]}" | sort -u); do
  licence=/usr/share/doc/$package/copyright
  [ ! -f "$licence" ] || install -D -m 644 "$licence" "$to$licence"
done

printf 'root:x:0:0:root:/:/none\nnonroot:x:65532:65532:nonroot:/:/none\n' >"$to/etc/passwd"
printf 'root:x:0:\nnonroot:x:65532:\n' >"$to/etc/group"
printf 'hosts: files dns\n' >"$to/etc/nsswitch.conf"
