#!/bin/bash
# The first process of a node: makes the node's view of the file system, says so, then only collects the dead.
#
#   node-init.sh FOLDER NAME      inside new mount, pid, uts and ipc namespaces and the node's network namespace
#
# What programs of the node write below /etc, /opt and /var lands in FOLDER/upper, /run is empty at each start as after
# a boot, and what kubelet writes to the machine's sysctls lands in plain files: the machine itself is never changed.
set -euo pipefail
folder=$1 name=$2

mount --make-rprivate /
hostname "$name"
mount -t proc proc /proc

# A sysfs of this network namespace, with the machine's cgroups put back into it.
mkdir -p "$folder/cgroup"
mount --rbind /sys/fs/cgroup "$folder/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$folder/cgroup" /sys/fs/cgroup
umount -R "$folder/cgroup"
mount -t bpf bpf /sys/fs/bpf

for file in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
  mkdir -p "$folder/sysctl"
  decoy=$folder/sysctl/${file//\//.}
  cat "/proc/sys/$file" >"$decoy"
  mount --bind "$decoy" "/proc/sys/$file"
done

for top in etc opt var; do
  mkdir -p "$folder/upper/$top" "$folder/work/$top"
  mount -t overlay -o "lowerdir=/$top,upperdir=$folder/upper/$top,workdir=$folder/work/$top" overlay "/$top"
done

# Copies of other labs' namespaces would be kept alive by being mounted here too. A lab that ends just now removes its own from here as well.
awk '$2 ~ "^/run/" { print $2 }' /proc/self/mounts | tac | while read -r place; do
  umount -l "$place" || if grep -qF " $place " /proc/self/mounts; then exit 1; fi
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/nephila /run/lock /var/lib/kubelet /var/lib/containerd /var/lib/nephila /var/log/pods \
  /var/log/containers /etc/cni/net.d /opt/cni/bin
for place in kubelet containerd; do # these two must not lie on an overlay
  mkdir -p "$folder/$place"
  mount --bind "$folder/$place" "/var/lib/$place"
done
mount --make-rshared /

echo up >"$folder/ready"
while :; do
  sleep 3600 &
  wait $! || true
done
