#!/usr/bin/env bash
# Runs a whole real Kubernetes until its standard input ends, then leaves nothing behind. Needs root.
#   up.sh PROGRAMS [NODES]    PROGRAMS: the folder that `build.sh nodes` printed; NODES: how many (1)
# Prints `ready FOLDER` when every node is; FOLDER holds admin.kubeconfig, logs, all state, and `pid`: enter the cluster's
# namespaces with `nsenter --target PID --net --mount --pid`, or its network alone to use kubectl.
#
# The cluster has network, process and mount namespaces of its own: bridges, packet filters, containers and mounts go
# with its first process, however that ends, and the machine's own network is out of its reach. A node is a mount namespace
# inside, with its own /run and /var; its kubelet keeps its files in $KUBELET_DIR (/var/lib/kubelet). A line `join NUMBER TAINTS` on the standard input starts a further one, which
# its kubelet registers with those taints (JSON). Before a node's kubelet starts, an executable $PREPARE is run inside
# with the node's name: it can mount what the node shall show (driver files, /proc/driver, /dev). Every node's containerd
# gets the image archives of the folder $IMAGES.
programs=$1 nodes=${2:-1}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Outside: starts the namespaces, and cleans up what they cannot: the folder and the containers' cgroups.
outside() {
  set -euo pipefail
  folder=$(mktemp -d "${TMPDIR:-/tmp}/cudaenv-cluster-XXXXXX")
  chmod 711 "$folder"   # a container whose root is another user must get through to its files
  trap clean_up EXIT
  trap 'exit 130' INT TERM HUP
  "$here/images.sh" "$folder/images"
  [ -z "${IMAGES:-}" ] || cp "$IMAGES"/*.tar "$folder/images"
  exec 4<&0   # a job in the background would read from /dev/null
  CUDAENV_CLUSTER=$folder unshare --net --mount --pid --fork --kill-child "$0" "$programs" "$nodes" <&4 4<&- &
  exec 4<&-
  wait $!
}
clean_up() {
  trap - EXIT
  if [ -n "$(jobs -p)" ]; then { kill -KILL "$(cat "$folder/pid" || jobs -p)"; wait; } 2>/dev/null || true; fi
  local task group
  for task in "$folder"/node*/run/io.containerd.runtime.v2.task/k8s.io/*; do
    for group in /sys/fs/cgroup{,/*}/k8s.io/"${task##*/}"; do remove_group "$group"; done
  done
  for group in /sys/fs/cgroup{,/*}/k8s.io; do rmdir "$group" 2>/dev/null || true; done   # where no other cluster uses it
  rm -rf --one-file-system "$folder"
}
# The kernel lets go of a group a moment after its last process.
remove_group() {
  [ -d "$1" ] || return 0
  for _ in {1..50}; do find "$1" -depth -type d -exec rmdir {} + 2>/dev/null && return; sleep 0.1; done
  echo "$1 is left" >&2
}

inside() {
  . "$here/api.sh"
  read -r pid _ </proc/self/stat   # as the machine counts: its own /proc is still here
  mount --make-rprivate /
  mount -t proc proc /proc
  cd "$folder"
  echo "$pid" >pid
  local address=10.95.0.1 n   # what pods reach the API server and the nodes at
  ip link set lo up
  ip address add "$address/32" dev lo
  ip route add 10.96.0.0/16 dev lo src "$address"   # the API server calls webhooks by their service: to be rewritten, they need a way
  echo 1 >/proc/sys/net/ipv4/ip_forward   # this network's own
  export PATH=$programs:$PATH
  take_slot
  start_api "$address" --bind-address 0.0.0.0 --endpoint-reconciler-type lease --kubelet-preferred-address-types InternalIP
  for n in kcm:system:kube-controller-manager sched:system:kube-scheduler proxy:system:kube-proxy; do
    certificate "${n%%:*}" "/CN=${n#*:}" "DNS:${n%%:*}"; kubeconfig "${n%%:*}"
  done
  start kube-controller-manager kube-controller-manager --kubeconfig kcm.kubeconfig --leader-elect=false \
    --service-account-private-key-file pki/sa.key --root-ca-file pki/ca.crt --use-service-account-credentials \
    --cluster-signing-cert-file pki/ca.crt --cluster-signing-key-file pki/ca.key
  start kube-scheduler kube-scheduler --kubeconfig sched.kubeconfig --leader-elect=false
  admin create clusterrolebinding e2e-proxy --clusterrole=system:node-proxier --user=system:kube-proxy >/dev/null
  start kube-proxy kube-proxy --kubeconfig proxy.kubeconfig --proxy-mode nftables --hostname-override node1 \
    --conntrack-max-per-core 0 --cluster-cidr 10.244.0.0/16
  for ((n = 1; n <= nodes; n++)); do start_node "$n"; done
  wait_for "the nodes" all_ready
  echo "ready $folder"
  local word taints
  while read -r word n taints; do
    [ "$word" != join ] || TAINTS=$taints start_node "$n"
  done
}
start_node() {
  certificate "node$1" "/O=system:nodes/CN=system:node:node$1" "DNS:node$1,IP:$address"; kubeconfig "node$1"
  start "node$1" unshare --mount "$here/node.sh" "$programs" "$folder" "node$1" "$1" "$address"
}
# The default service account must be there before the first pod.
all_ready() {
  [ "$(admin get nodes --no-headers | grep -cw Ready)" = "$nodes" ] && admin get serviceaccount default
}

folder=${CUDAENV_CLUSTER:-}
if [ -z "$folder" ]; then outside; else inside; fi
