#!/usr/bin/env bash
# Makes the images of our programs as OCI archives, without a registry, a daemon or a builder:
#   build.sh [--debug|--built] [--prefix REGISTRY/PATH] [--to FOLDER]    into target/images/{node-agent,operator}.tar
# --debug takes target/debug as it is, for tests, --built target/release, for benchmarks; else the programs are built for release. The same programs and the same
# machine's libraries give the same bytes.
set -euo pipefail
export LC_ALL=C
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=${here%/*}
profile=release built= prefix=ghcr.io/cudaenv to=$top/target/images
while [ $# -gt 0 ]; do
  case $1 in
    --debug) profile=debug built=yes ;;
    --built) built=yes ;;
    --prefix) prefix=$2; shift ;;
    --to) to=$2; shift ;;
    *) echo "build.sh: no such option: $1" >&2; exit 2 ;;
  esac
  shift
done
target=${CARGO_TARGET_DIR:-$top/target}
version=$(sed -nE 's/^version = "(.*)"/\1/p' "$top/Cargo.toml" | head -n 1)
case $(uname -m) in x86_64) architecture=amd64 ;; aarch64) architecture=arm64 ;; *) architecture=$(uname -m) ;; esac
[ -n "$built" ] || (cd "$top" && cargo build --release -p node-agent -p operator)
mkdir -p "$to"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# archive FOLDER: its files as a tar whose bytes depend on nothing but them
archive() { tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@1 --format=gnu -C "$1" -cf - .; }

# blob LAYOUT FILE: moves the file among the blobs; prints `"digest":…,"size":…`
blob() {
  local digest size
  digest=$(sha256sum <"$2"); digest=${digest%% *}
  size=$(stat -c %s "$2")
  mv "$2" "$1/blobs/sha256/$digest"
  echo "\"digest\":\"sha256:$digest\",\"size\":$size"
}

# image PROGRAM USER LIMIT: LIMIT in MB of what a node has to keep, so that a slip is seen where it is made
image() {
  local name=$1 user=$2 limit=$3 layout=$work/$1/layout layer config manifest bytes
  mkdir -p "$layout/blobs/sha256"
  "$here/root.sh" "$target/$profile/$name" "$work/$name/root"
  archive "$work/$name/root" >"$work/$name/layer.tar"
  bytes=$(stat -c %s "$work/$name/layer.tar")
  [ $profile = release ] || limit=$((2 * limit))
  [ "$bytes" -le $((limit * 1000000)) ] || { echo "$name: $bytes bytes, more than $limit MB" >&2; exit 1; }
  local unpacked
  unpacked=$(sha256sum <"$work/$name/layer.tar"); unpacked=${unpacked%% *}
  gzip -n -6 "$work/$name/layer.tar"
  layer=$(blob "$layout" "$work/$name/layer.tar.gz")
  cat >"$work/$name/config.json" <<X
{"architecture":"$architecture","os":"linux","config":{"User":"$user","Entrypoint":["/usr/bin/$name"],"Env":["PATH=/usr/bin"],"Labels":{"org.opencontainers.image.title":"$name","org.opencontainers.image.version":"$version","org.opencontainers.image.licenses":"Apache-2.0"}},"rootfs":{"type":"layers","diff_ids":["sha256:$unpacked"]}}
X
  config=$(blob "$layout" "$work/$name/config.json")
  cat >"$work/$name/manifest.json" <<X
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json",$config},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip",$layer}]}
X
  manifest=$(blob "$layout" "$work/$name/manifest.json")
  echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
  cat >"$layout/index.json" <<X
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",$manifest,"platform":{"architecture":"$architecture","os":"linux"},"annotations":{"io.containerd.image.name":"$prefix/$name:$version","org.opencontainers.image.ref.name":"$version"}}]}
X
  archive "$layout" >"$to/.$name.tar"
  mv "$to/.$name.tar" "$to/$name.tar"
  echo "$to/$name.tar: $prefix/$name:$version, $((bytes / 1000000)) MB"
}

image node-agent 0:0 80
image operator 65532:65532 40
