#!/usr/bin/env bash
# Builds csi-sanity, the conformance suite of CSI drivers, from its Go module, once, and prints where it is.
# Needs Go and, the first time, its module proxy. Not a set of build.sh: it is no part of a cluster, and a change of either
# must not build the other anew.
# Exit code 3: this machine cannot build it, for the reason on the last line; anything else but 0 is a fault.
set -euo pipefail
package=github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity version=v5.6.0
cache="${CUDAENV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}}/cudaenv/csi-sanity"
folder=$cache/$version

cannot() { echo "$*" >&2; exit 3; }

mkdir -p "$folder"
exec 8>"$cache/.lock"
flock 8   # two test programs may ask at once: one builds
if [ ! -x "$folder/csi-sanity" ]; then
  command -v go >/dev/null || cannot "Go is not installed (https://go.dev/doc/install)"
  echo "csi-sanity $version: fetching Go modules and compiling" >&2
  cd /
  CGO_ENABLED=0 GOWORK=off GOFLAGS="-trimpath -buildvcs=false" GOBIN=$folder nice go install -p "${CUDAENV_GO_JOBS:-2}" \
    -ldflags "-s -w" "$package@$version" 2>"$folder/.errors" || cannot "csi-sanity $version: $(tail -n 1 "$folder/.errors")"
  rm "$folder/.errors"
fi
echo "$folder/csi-sanity"
