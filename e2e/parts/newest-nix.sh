#!/usr/bin/env bash
# Unpacks the newest Nix of Debian with every library it needs, its libc too, on the shelf; nothing is installed:
#   newest-nix.sh [--require] -> prints the folder with programs `nix` and `nix-store` that run as they are
# It is what the benchmark compares with. It stays on the shelf until removed there, so that runs compare with one Nix.
. "$(dirname "$0")/shelf.sh"
. "$(dirname "$0")/apt.sh"
take_require "$@"

suite=forky keyring=/usr/share/keyrings/debian-archive-keyring.gpg
works() { "$1/nix-store" --version >/dev/null 2>&1 && "$1/nix" --version >/dev/null 2>&1; }

lock_shelf
tree="$shelf/nix-$suite"
if works "$tree/bin"; then echo "$tree/bin"; exit 0; fi
work=$(mktemp -d "$shelf/.nix.XXXXXX"); trap 'rm -rf "$work"' EXIT
mkdir -p "$work/debs" "$work/tree/bin"
archive=$(archive) || { could_not "nix-bin of $suite"; finish; }
echo "deb [signed-by=$keyring] $archive $suite main" >"$work/sources.list"
private_apt apt-get "$work" update >&2 || { could_not "nix-bin of $suite"; finish; }
packages=$(private_apt apt-cache "$work" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
  --no-enhances nix-bin | grep '^[a-z0-9]' | grep -E '^(lib|zlib1g$|nix-bin$)' | grep -vE '^(libperl|libdbd-|libdbi-|libwww-|libpam|libdebian-installer|libnewt|libtextwrap|libslang|libsemanage)' | sort -u)
# shellcheck disable=SC2086
if ! (cd "$work/debs" && private_apt apt-get "$work" download $packages 2>/dev/null); then could_not "nix-bin of $suite"; finish; fi
for file in "$work"/debs/*.deb; do dpkg-deb -x "$file" "$work/tree"; done
libraries="$tree/usr/lib/$(uname -m)-linux-gnu"
loader=$(cd "$work/tree" && find usr/lib -name 'ld-linux-*.so.*' | head -1)
for program in nix nix-store; do
  cat >"$work/tree/bin/$program" <<P
#!/usr/bin/env bash
exec "$tree/$loader" --argv0 $program --library-path "$libraries" "$tree/usr/bin/nix" "\$@"
P
  chmod 755 "$work/tree/bin/$program"
done
rm -rf "$tree"
mv -T "$work/tree" "$tree"
works "$tree/bin" || { could_not "a nix-bin of $suite that runs here"; finish; }
echo "$tree/bin"
