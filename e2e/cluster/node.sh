#!/usr/bin/env bash
# One node, inside a mount namespace of its own: node.sh PROGRAMS FOLDER NAME NUMBER ADDRESS. up.sh starts it.
# Nothing it does reaches the machine: /run and /var are its own, and what kubelet would set in /proc/sys it finds set.
set -euo pipefail
programs=$1 folder=$2 name=$3 number=$4 address=$5
kubelet_dir=${KUBELET_DIR:-/var/lib/kubelet}
node=$folder/$name
mkdir -p "$node"/{containerd,run,kubelet,cudaenv,cni,var,work,proc,tmp}
echo $$ >"$node/pid"   # as the cluster counts
export TMPDIR=$node/tmp

mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mount -t overlay -o "lowerdir=/var,upperdir=$node/var,workdir=$node/work" overlay /var
mkdir -p "$kubelet_dir" /var/lib/cudaenv
mount --bind "$node/kubelet" "$kubelet_dir"   # not on the overlay: overlays are mounted of both
mount --bind "$node/cudaenv" /var/lib/cudaenv

# kubelet insists on these for the whole machine; it is content to read them.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file=$node/tmp/${setting%=*}
  mkdir -p "${file%/*}"
  echo "${setting#*=}" >"$file"
  mount --bind "$file" "/proc/sys/${setting%=*}"
done
mount -t proc proc "$node/proc"   # one without such covers: else the kernel denies pods with user namespaces theirs

# restrict_oom_score_adj: a machine without CAP_SYS_RESOURCE cannot lower oom_score_adj, and every sandbox would fail
cat >"$node/containerd.toml" <<X
version = 3
root = "$node/containerd"
state = "$node/run"
[grpc]
address = "/run/containerd.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "localhost/e2e/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["$programs/cni"]
conf_dir = "$node/cni"
X
cat >"$node/cni/10-e2e.conflist" <<X
{"cniVersion": "1.0.0", "name": "e2e$number", "plugins": [
  {"type": "bridge", "bridge": "e2e$number", "isGateway": true, "ipam": {"type": "host-local", "dataDir": "$node/ipam",
   "ranges": [[{"subnet": "10.244.$number.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "loopback"}]}
X
# cgroupsPerQOS off lets several kubelets share a machine; failCgroupV1: later kubelets refuse cgroup v1 by default.
# InPlacePodVerticalScaling: kubelet 1.34 resizes a force-deleted pod whose resources it has just forgotten, and without pod
# cgroups that is a nil pointer: kubelet ends (doPodResizeAction, currentPodMemoryConfig).
# crashLoopBackOff: what is killed again and again starts again each time, and not after five minutes.
cat >"$node/kubelet.yaml" <<X
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $folder/pki/ca.crt}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix:///run/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
featureGates: {InPlacePodVerticalScaling: false, KubeletCrashLoopBackOffMax: true}
port: $((10250 + 10 * (number - 1)))
healthzPort: 0
tlsCertFile: $folder/pki/$name.crt
tlsPrivateKeyFile: $folder/pki/$name.key
podLogsDir: /var/log/pods
volumePluginDir: $node/flexvolume
localStorageCapacityIsolation: false
clusterDNS: [10.96.0.10]
oomScoreAdj: 0
evictionHard: {memory.available: "100Mi"}
registerWithTaints: ${TAINTS:-[]}
X
mount --make-rshared /   # as systemd does: what containers mount for others is seen here, and the other way round
[ -z "${PREPARE:-}" ] || "$PREPARE" "$name"

boot() {
  setpriv --pdeathsig KILL containerd -c "$node/containerd.toml" >>"$folder/log/$name-containerd.log" 2>&1 </dev/null &
  for _ in {1..300}; do ctr -a /run/containerd.sock version >/dev/null 2>&1 && return; sleep 0.1; done
}

# Everything that a loss of power ends: processes, mounts, what /run held of them. Files stay.
power_off() {
  local task process where
  for task in "$node"/run/io.containerd.runtime.v2.task/k8s.io/*/init.pid; do kill -KILL "$(cat "$task")" 2>/dev/null || true; done
  for process in /proc/[0-9]*; do
    [ "${process#/proc/}" = $$ ] || [ "$(readlink "$process/ns/mnt")" != "$(readlink /proc/$$/ns/mnt)" ] ||
      kill -KILL "${process#/proc/}" 2>/dev/null || true
  done
  wait
  while read -r where; do umount -l "$where"; done < <(
    awk -v node="$node" -v kubelet="$kubelet_dir" '$5 ~ "^(" kubelet "|/var/lib/cudaenv|/run/netns|" node "/run)/" {print $5}' /proc/self/mountinfo | tac)
  rm -rf --one-file-system "$node"/run/* /run/netns /run/containerd*
}

boot
for image in "$folder"/images/*.tar; do ctr -a /run/containerd.sock -n k8s.io images import "$image"; done
# A file `hold` says that kubelet's end is wanted, and keeps it from starting again; with `reboot`, all goes that has no file.
while :; do
  setpriv --pdeathsig KILL kubelet --config="$node/kubelet.yaml" --kubeconfig="$folder/$name.kubeconfig" --root-dir="$kubelet_dir" \
    --hostname-override="$name" --node-ip="$address" --v=2 </dev/null &
  echo $! >"$node/kubelet.pid"
  wait $! || true
  [ -e "$node/hold" ] || exit 1
  if [ -e "$node/reboot" ]; then power_off; rm "$node/reboot"; fi
  while [ -e "$node/hold" ]; do sleep 0.1; done
  [ -S /run/containerd.sock ] || boot
done
