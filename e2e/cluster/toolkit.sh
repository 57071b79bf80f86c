#!/usr/bin/env bash
# NVIDIA's container toolkit on a node, inside that node's mount namespace, by the toolkit's own commands:
#   toolkit.sh install PROGRAMS CONTAINERD-CONFIG DRIVER-ROOT    PROGRAMS: the folder that nvidia.sh printed
#   toolkit.sh mode PROGRAMS MODE    how containers get their devices from then on: cdi (at first) or legacy
# containerd, once started again, starts all containers with NVIDIA's runtime. From here on the node has an /etc of its own. What is
# not real is the GPU, whose device files are those of /dev/null, and nvidia-container-cli (container-cli.sh).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
programs=$2
export PATH=$programs:$PATH
devices=/run/nvidia-devices

install() {
  local config=$1 root=$2 name
  mkdir -p /run/etc/{upper,work} $devices/dev /var/run/cdi
  mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work overlay /etc
  for name in nvidia0 nvidiactl nvidia-uvm; do mknod -m 666 "$devices/dev/$name" c 1 3; done
  nvidia-ctk --quiet config --output=/etc/nvidia-container-runtime/config.toml --set nvidia-container-runtime.mode=cdi \
    --set "nvidia-container-runtime-hook.path=$programs/nvidia-container-runtime-hook" --set "nvidia-container-cli.path=$here/container-cli.sh" \
    --set "nvidia-container-cli.root=$root"
  nvidia-ctk --quiet runtime configure --runtime=containerd --config="$config" \
    --nvidia-runtime-path="$programs/nvidia-container-runtime" --nvidia-set-as-default
  # All device files, and what belongs to the driver, without asking NVML for GPUs. The device is called as the device plugin calls its first.
  nvidia-ctk --quiet cdi generate --mode=management --driver-root="$root" --dev-root=$devices --nvidia-cdi-hook-path="$programs/nvidia-cdi-hook" \
    --output=/var/run/cdi/nvidia.yaml
  sed -i 's/^\( *- name: \)all$/\1"0"/' /var/run/cdi/nvidia.yaml
}

mode() { nvidia-ctk --quiet config --in-place --set "nvidia-container-runtime.mode=$1"; }

"$1" "${@:3}"
