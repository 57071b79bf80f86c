#!/usr/bin/env bash
# Unpacks one Python wheel, checked against a pinned SHA-256, into a folder that appears complete or not at all:
#   wheel.sh [--require] DEST NAME==VERSION SHA256
# A relative DEST lies on the shelf. pip resolves the index as this machine is configured; nothing is installed.
. "$(dirname "$0")/shelf.sh"
take_require "$@"
[ ${#rest[@]} -eq 3 ] || { echo "usage: wheel.sh [--require] DEST NAME==VERSION SHA256" >&2; exit 2; }
dest=${rest[0]} requirement=${rest[1]} sha256=${rest[2]}
case $dest in /*) ;; *) dest="$shelf/$dest" ;; esac
[ ! -d "$dest" ] || exit 0
lock_shelf
[ ! -d "$dest" ] || exit 0

mkdir -p "$(dirname "$dest")"
work=$(mktemp -d "$(dirname "$dest")/.wheel.XXXXXX"); trap 'rm -rf "$work"' EXIT
mkdir "$work/down" "$work/tree"
if ! python3 -m pip --disable-pip-version-check --retries 2 --timeout 20 download -q --no-deps --only-binary=:all: --no-cache-dir --python-version 3.11 \
    --platform manylinux_2_27_x86_64 --platform manylinux_2_24_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --platform manylinux2010_x86_64 --platform manylinux1_x86_64 -d "$work/down" "$requirement" >&2; then
  could_not "$requirement"; finish
fi
wheel=$(find "$work/down" -name '*.whl')
have_sha256 "$wheel" "$sha256" || { could_not "$requirement"; finish; }
python3 -m zipfile -e "$wheel" "$work/tree"
chmod -R u=rwX,go=rX "$work/tree"
find "$work/tree" -path "*/bin/*" -type f -exec chmod +x {} +   # Python unpacks programs without it
mv -T "$work/tree" "$dest"
echo "$requirement: $(du -sh "$dest" | cut -f1)" >&2
