#!/usr/bin/env bash
# Builds NVIDIA's own programs for nodes from their Go modules, once, and prints their folder: device plugin, GPU Feature Discovery, and the
# container toolkit but for nvidia-container-cli, in which its legacy mode ends: that one is C.
# Needs Go, gcc and, the first time, the module proxy. `go install` refuses modules with replacements, so each is built in a copy of its own.
# Exit code 3: this machine cannot build them, for the reason on the last line; anything else but 0 is a fault.
set -euo pipefail
plugin=v0.19.1 toolkit=v1.20.2
cache="${CUDAENV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}}/cudaenv/nvidia"
folder=$cache/$plugin-$toolkit

cannot() { echo "$*" >&2; exit 3; }

# build MODULE VERSION PROGRAM…: into $work/built
build() {
  local module=github.com/NVIDIA/$1 version=$2 started=$SECONDS answer source; shift 2
  echo "$module $version: fetching Go modules and compiling (minutes the first time)" >&2
  cd /
  answer=$(go mod download -json "$module@$version") || cannot "$module $version: $(tail -n 3 <<<"$answer" | tr -d '\n')"
  source=$(sed -nE 's|^\t"Dir": "(.*)",?$|\1|p' <<<"$answer")
  cp -rT "$source" "$work/$module"
  chmod -R u+w "$work/$module"
  cd "$work/$module"
  nice go build -p "${CUDAENV_GO_JOBS:-2}" -ldflags "-s -w -X $module/internal/info.version=$version" -o "$work/built/" "${@/#/./cmd/}" \
    2>"$work/errors" || cannot "$module $version: $(tail -n 1 "$work/errors")"
  echo "$module $version: built in $((SECONDS - started)) s" >&2
}

mkdir -p "$cache"
exec 8>"$cache/.lock"
flock 8   # two test programs may ask at once: one builds
if [ ! -d "$folder" ]; then
  command -v go >/dev/null || cannot "Go is not installed (https://go.dev/doc/install)"
  command -v gcc >/dev/null || cannot "gcc is not installed (gcc)"
  export CGO_ENABLED=1 GOWORK=off GOFLAGS="-trimpath -buildvcs=false"
  work=$(mktemp -d "$cache/.work.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$work/built" "$work/github.com/NVIDIA"
  build nvidia-container-toolkit $toolkit nvidia-container-runtime nvidia-container-runtime-hook nvidia-cdi-hook nvidia-ctk
  build k8s-device-plugin $plugin nvidia-device-plugin gpu-feature-discovery
  mv -T "$work/built" "$folder"
fi
echo "$folder"
