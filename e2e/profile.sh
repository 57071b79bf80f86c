#!/usr/bin/env bash
# Where the agent's time goes in one benchmark, as a flame graph:
#   profile.sh [BENCHMARK] -> target/profile/BENCHMARK.svg     (`smoke` unless named; build the release programs before)
# Samples all processes of the run and shows those of the agent; needs perf and the right to use it.
set -euo pipefail
cd "$(dirname "$0")/.."
benchmark=${1:-smoke} folder=target/profile
mkdir -p "$folder"
if ! command -v perf >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get -qq update >/dev/null 2>&1 || true
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends linux-perf >/dev/null || true
  fi
  command -v perf >/dev/null || { echo "perf is missing: install it (on Debian: linux-perf)" >&2; exit 1; }
fi
tools=$folder/tools
[ -x "$tools/bin/inferno-flamegraph" ] || cargo install --quiet --locked --root "$tools" --version 0.12.8 inferno
target/release/bench --prepare "$benchmark"
perf record --quiet --freq 499 --call-graph dwarf,8192 --output "$folder/$benchmark.data" -- target/release/bench "$benchmark"
perf script --input "$folder/$benchmark.data" --comms node-agent,tokio-rt-worker 2>/dev/null |
  "$tools/bin/inferno-collapse-perf" --quiet | "$tools/bin/inferno-flamegraph" --title "node-agent, $benchmark" >"$folder/$benchmark.svg"
echo "$folder/$benchmark.svg"
