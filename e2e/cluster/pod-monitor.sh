#!/usr/bin/env bash
# Fetches the definition of PodMonitor, as the Prometheus operator installs it, from its Go module, and prints where it is.
# Needs Go and, the first time, its module proxy.
# Exit code 3: this machine cannot have it, for the reason on the last line; anything else but 0 is a fault.
set -euo pipefail
module=github.com/prometheus-operator/prometheus-operator version=v0.85.0

cannot() { echo "$*" >&2; exit 3; }

command -v go >/dev/null || cannot "Go is not installed (https://go.dev/doc/install)"
cd /
answer=$(GOWORK=off GOFLAGS= go mod download -json "$module@$version") || cannot "$module $version: $(tail -n 3 <<<"$answer" | tr -d '\n')"
folder=$(sed -nE 's|^\t"Dir": "(.*)",?$|\1|p' <<<"$answer")
file=$folder/example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml
[ -s "$file" ] || { echo "$file is missing" >&2; exit 1; }
echo "$file"
