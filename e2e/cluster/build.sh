#!/usr/bin/env bash
# Builds the programs of a real Kubernetes from Go modules, once for each state of their sources, and prints their folder:
#   build.sh [SET…]    always etcd, kube-apiserver and kubectl
#     nodes            scheduler, controllers, kubelet, containerd, runc
#     helm             helm
# Needs Go and, the first time, its module proxy.
# Exit code 3: this machine cannot build them, for the reason on the last line; anything else but 0 is a fault.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache="${CUDAENV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}}/cudaenv/cluster"
version=$(sed -nE 's|^\tk8s.io/kubernetes (v[0-9.]+)$|\1|p' "$here/programs/go.mod")
key=$(cd "$here" && sha256sum build.sh programs/go.mod programs/go.sum programs/*/main.go | sha256sum)
folder=$cache/$version-${key:0:12}

cannot() { echo "$*" >&2; exit 3; }
asked=" $* "
wanted() { [[ $asked == *" $1 "* ]]; }
for word; do [[ $word =~ ^(nodes|helm)$ ]] || { echo "build.sh: no such set: $word" >&2; exit 2; }; done

# Whatever the user's own Go settings are.
settle() {
  command -v go >/dev/null || cannot "Go is not installed (https://go.dev/doc/install)"
  export CGO_ENABLED=${cgo:-0} GOWORK=off GOFLAGS="-trimpath -buildvcs=false"
}

# compile PROGRAM NAME…: programs/PROGRAM, called by those names. It becomes visible when complete.
compile() {
  local program=$1 packages started=$SECONDS minor=${version#v1.} stamp name; shift
  [ ! -x "$folder/$program" ] || return 0
  settle
  cd "$here/programs"
  echo "Kubernetes $version: fetching Go modules for $* (the first time about 100 MB)" >&2
  packages=$(go list -deps "./$program" 2>"$folder/.errors" | wc -l) || cannot "$(tail -n 1 "$folder/.errors")"
  rm "$folder/.errors"
  echo "Kubernetes $version: compiling $packages packages for $* (minutes the first time)" >&2
  stamp="-X k8s.io/component-base/version.gitVersion=$version -X k8s.io/component-base/version.gitMajor=1"
  stamp+=" -X k8s.io/component-base/version.gitMinor=${minor%%.*}"
  nice go build -v -p "${CUDAENV_GO_JOBS:-2}" -ldflags "-s -w $stamp" -o "$folder/.$program" "./$program" 2> >(progress "$packages")
  for name; do ln -sf "$program" "$folder/$name"; done
  mv "$folder/.$program" "$folder/$program"
  echo "Kubernetes $version: $* built in $((SECONDS - started)) s" >&2
}

# install FOLDER PACKAGE VERSION FLAG…: a program with a go.mod of its own.
install() {
  local to=$1 package=$2 program=${2##*/} started=$SECONDS; shift 2
  [ ! -x "$to/$program" ] || return 0
  settle
  cd /
  echo "$program $1: fetching Go modules and compiling" >&2
  GOBIN=$to nice go install -p "${CUDAENV_GO_JOBS:-2}" -ldflags "-s -w" "${@:2}" "$package@$1" 2>"$folder/.errors" ||
    cannot "$program $1: $(tail -n 1 "$folder/.errors")"
  rm "$folder/.errors"
  echo "$program $1: built in $((SECONDS - started)) s" >&2
}

# Turns the names of compiled packages into one line for every hundred of them, and passes on everything else.
progress() { awk -v all="$1" '/^[A-Za-z0-9.\/_-]+$/ { if (++n % 100 == 0) print n " of " all " packages"; next } { print }' >&2; }

mkdir -p "$folder"
touch "$folder"
find "$cache" -mindepth 1 -maxdepth 1 -name 'v*' -mtime +30 -exec rm -r {} +   # of sources that nobody asks for any more
exec 8>"$cache/.lock"
flock 8   # two test programs may ask at once: one builds
compile control-plane etcd kube-apiserver kubectl
if wanted nodes; then
  for needed in nft:nftables ip:iproute2 busybox:busybox-static gcc:gcc pkg-config:pkg-config; do
    command -v "${needed%:*}" >/dev/null || cannot "${needed%:*} is not installed (${needed#*:})"
  done
  compile node kube-controller-manager kube-proxy kube-scheduler kubelet
  containerd=github.com/containerd/containerd/v2/cmd
  for program in containerd containerd-shim-runc-v2 ctr; do install "$folder" $containerd/$program v2.2.1; done
  plugins=github.com/containernetworking/plugins/plugins
  for program in main/bridge main/loopback ipam/host-local; do install "$folder/cni" $plugins/$program v1.9.1; done
  # With seccomp, or it refuses what kubelet asks for: the one program that needs C, with libseccomp's headers.
  [ -x "$folder/runc" ] || pkg-config --exists libseccomp || cannot "libseccomp's headers are not installed (libseccomp-dev)"
  cgo=1 install "$folder" github.com/opencontainers/runc v1.4.3 -tags seccomp
fi
if wanted helm; then install "$folder" helm.sh/helm/v3/cmd/helm v3.22.0; fi
echo "$folder"
