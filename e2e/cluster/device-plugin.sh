#!/usr/bin/env bash
# Builds Kubernetes' own example of a device plugin, of the version that build.sh builds, once, and prints where it is.
# Needs Go and, the first time, its module proxy. Not a set of build.sh: a change of either must not build the other anew.
# Exit code 3: this machine cannot build it, for the reason on the last line; anything else but 0 is a fault.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=$(sed -nE 's|^\tk8s.io/kubernetes (v[0-9.]+)$|\1|p' "$here/programs/go.mod")
cache="${CUDAENV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}}/cudaenv/device-plugin"
folder=$cache/$version

cannot() { echo "$*" >&2; exit 3; }

mkdir -p "$folder"
exec 8>"$cache/.lock"
flock 8   # two test programs may ask at once: one builds
if [ ! -x "$folder/sample-device-plugin" ]; then
  command -v go >/dev/null || cannot "Go is not installed (https://go.dev/doc/install)"
  echo "sample-device-plugin $version: fetching Go modules and compiling" >&2
  cd "$here/programs"
  CGO_ENABLED=0 GOWORK=off GOFLAGS="-trimpath -buildvcs=false" nice go build -p "${CUDAENV_GO_JOBS:-2}" -ldflags "-s -w" \
    -o "$folder/.sample-device-plugin" k8s.io/kubernetes/test/images/sample-device-plugin 2>"$folder/.errors" ||
    cannot "sample-device-plugin $version: $(tail -n 1 "$folder/.errors")"
  rm "$folder/.errors"
  mv "$folder/.sample-device-plugin" "$folder/sample-device-plugin"
fi
echo "$folder/sample-device-plugin"
