#!/usr/bin/env bash
# Finds real Nix, or unpacks Debian's nix-bin and the libraries it needs on the shelf; nothing is installed:
#   nix.sh [--require] -> prints the folder with programs `nix` and `nix-store` that run as they are
# Only its formats are used (dump, sign, compress, copy, verify), always on a private store: no daemon, no /nix.
. "$(dirname "$0")/shelf.sh"
take_require "$@"

works() { "$1/nix-store" --version >/dev/null 2>&1 && "$1/nix" --version >/dev/null 2>&1; }

if command -v nix >/dev/null && command -v nix-store >/dev/null && [ -z "${CUDAENV_OWN_NIX:-}" ]; then
  found=$(dirname "$(command -v nix)")
  if works "$found"; then echo "$found"; exit 0; fi
fi
lock_shelf
if works "$shelf/nix/bin"; then echo "$shelf/nix/bin"; exit 0; fi
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { could_not "nix-bin (no apt here)"; finish; }

work=$(mktemp -d "$shelf/.nix.XXXXXX"); trap 'rm -rf "$work"' EXIT
mkdir -p "$work/debs" "$work/tree/bin"
# apt's own signature check stands in for a pin: which build fits depends on the release of the machine.
[ "$(id -u)" != 0 ] || apt-get -qq update >/dev/null 2>&1 || true
packages=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances nix-bin 2>/dev/null |
  grep '^[a-z0-9]' | grep -vxE 'libc6|libgcc-s1|libstdc\+\+6|gcc-[0-9]+-base|debconf.*|cdebconf|dpkg|adduser|passwd|perl.*|libc-bin' | sort -u)
if ! (cd "$work/debs" && apt-get -qq -o APT::Sandbox::User=root download $packages 2>/dev/null); then
  could_not "nix-bin"; finish
fi
for file in "$work"/debs/*.deb; do dpkg-deb -x "$file" "$work/tree"; done
for program in nix nix-store; do
  cat >"$work/tree/bin/$program" <<P
#!/usr/bin/env bash
export LD_LIBRARY_PATH="$shelf/nix/usr/lib/nix:$shelf/nix/usr/lib/$(uname -m)-linux-gnu:$shelf/nix/lib/$(uname -m)-linux-gnu"
exec -a $program "$shelf/nix/usr/bin/nix" "\$@"
P
  chmod 755 "$work/tree/bin/$program"
done
rm -rf "$shelf/nix"
mv -T "$work/tree" "$shelf/nix"
works "$shelf/nix/bin" || { could_not "a nix-bin that runs here"; finish; }
echo "$shelf/nix/bin"
