#!/usr/bin/env bash
# Makes out/uvm-gen2.vhdx: a disk that a Hyper-V machine of generation 2 boots by itself (image/hyperv).
# One UEFI program holds kernel, initrd and kernel line.
# DISK_INITRD=F    another initrd than out/initrd-bringup.img, which has a shell
# DISK_OPTIONS=T   more kernel options
. "$(dirname "$0")/../../.ci/common.sh"

initrd=${DISK_INITRD:-$out/initrd-bringup.img}
stub=/usr/lib/systemd/boot/efi/linuxx64.efi.stub
"$top/.ci/packages.sh" disk
[ -e "$stub" ] || die "there is no $stub: it comes with systemd-boot (Debian: systemd-boot-efi)"
[ -e "$initrd" ] || die "no $initrd: run 'make image'"
[ -e "$out/bzImage" ] || die "no out/bzImage: run 'make kernel'"

# What hcsshim passes when a console is attached. Without a host that listens the wrapper cannot connect
# the log: then the service goes without it, and dials until somebody does.
service='/bin/gcs -v4 -loglevel debug'
line="8250_core.nr_uarts=1 8250_core.skip_txen_test=1 console=ttyS0,115200 panic=60 ${DISK_OPTIONS:+$DISK_OPTIONS }"
line+="brd.rd_nr=0 pmtmr=0 -- -e 1 sh -c "
line+="\"(/bin/vsockexec -e 109 $service -log-format json || exec $service -logfile /run/gcs/gcs.log) & exec sh\""
"$target/image-tool" efi-disk --stub "$stub" --kernel "$out/bzImage" --initrd "$initrd" \
    --command-line "$line" --output "$out/uvm-gen2.vhdx" || die "out/uvm-gen2.vhdx could not be made"
say "out/uvm-gen2.vhdx: $(stat -c %s "$out/uvm-gen2.vhdx") bytes"
