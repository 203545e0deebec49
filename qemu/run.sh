#!/usr/bin/env bash
# Runs one container. Its stdin, stdout, stderr and exit code are those of this script.
# IMAGE=  an OCI layout, archive or root file system (default: Debian's busybox)
# CMD=    a command line, split like a shell does (default: shows the machine)
exec 3<&0
. "$(dirname "$0")/../.ci/common.sh"

"$top/.ci/packages.sh" qemu images 3<&-
arguments=(run --kernel "$out/vmlinux" --initrd "$out/initrd.img")
[ -z "${IMAGE:-}" ] || arguments+=(--image "$IMAGE")
[ -z "${CMD:-}" ] || arguments+=(--command "$CMD")
exec "$out/uvm" "${arguments[@]}" <&3 3<&-
