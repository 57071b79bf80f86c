#!/usr/bin/env bash
# Runs a real API server and its etcd on loopback until its standard input ends, then leaves nothing behind:
#   control-plane.sh PROGRAMS    (the folder that build.sh printed)
# Prints `ready FOLDER` when requests are answered; FOLDER holds admin.kubeconfig, logs and all state. As nothing but the
# end of the input is waited for, it also goes when its owner was killed. Several may run at once, each in a slot of its own.
programs=$1
. "$(dirname "${BASH_SOURCE[0]}")/api.sh"
folder=$(mktemp -d "${TMPDIR:-/tmp}/cudaenv-cluster-XXXXXX")
cd "$folder"

clean_up() {
  trap - EXIT
  [ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" 2>/dev/null || true
  wait 2>/dev/null   # bash tells of each killed job there
  rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

take_slot
start_api 127.0.0.1
echo "ready $folder"
while read -r _; do :; done   # not `cat`: a signal must interrupt the wait
