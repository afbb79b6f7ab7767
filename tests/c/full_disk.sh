#!/bin/sh
# The saves of tests/c/saving.c on a file system that is really full. It is one of this script's own, in a mount namespace
# of its own; where the system gives no such thing, says so.
#
#   full_disk.sh PROGRAM
set -e
disk=$(mktemp -d)
trap 'rmdir "$disk"' EXIT
small() { unshare --user --map-root-user --mount sh -c 'mount -t tmpfs -o size=400k none "$1" && shift && "$@"' sh "$disk" "$@"; }
if small true 2>/dev/null; then
  small env MLXRT_SMALL_DISK="$disk" "$1" "where the disk is full"
else
  echo "full_disk.sh: left out, no file system of its own here"
fi
