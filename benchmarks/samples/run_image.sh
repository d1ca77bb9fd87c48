#!/bin/sh
# Runs a command in the unpacked root of an image as a container engine would with --network none, --read-only,
# --shm-size 64m and --pids-limit off: for machines without one. It calls itself in namespaces of its own.
# usage: run_image.sh ROOT USER:GROUP FOLDER INPUTS OUTPUTS COMMAND..., with the image's environment as its own
set -eu
if [ -z "${IN_NAMESPACES:-}" ]; then
  IN_NAMESPACES=1 exec unshare --mount --net --ipc --pid --fork --kill-child sh "$0" "$@"
fi
unset IN_NAMESPACES
root=$1 user=$2 folder=$3 inputs=$4 outputs=$5
shift 5
PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin
mount --bind "$root" "$root"
mount --bind -o ro "$inputs" "$root/workspace/inputs"
mount --bind "$outputs" "$root/workspace/outputs"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/dev"
for device in null zero random urandom; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm"
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$root/dev/shm"
mount -o remount,bind,ro "$root"
mount -o remount,bind,ro "$root/workspace/inputs"
exec chroot --userspec="$user" "$root" sh -c 'cd "$0" && exec "$@"' "$folder" "$@"
