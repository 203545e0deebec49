#!/usr/bin/env bash
# Makes out/bzImage-stock and out/initrd-stock.img: the shipped guest with a kernel that somebody else
# built, Debian's by default, and with those of its modules that image/profiles/stock.modules lists.
# STOCK_KERNEL=F   a Debian package (.deb) of a kernel, or a directory that holds boot/ and lib/modules/,
#                  such as / of a machine that runs it
. "$(dirname "$0")/../../.ci/common.sh"

tool=$target/image-tool
work=$target/stock
"$top/.ci/packages.sh" stock images
[ -x "$tool" ] || "$top/qemu/host.sh"
[ -e "$out/init" ] || die "no out/init: run 'make init'"
mkdir -p "$work"

# --- the kernel's files: $root/boot/vmlinuz-V, $root/boot/config-V, $root/lib/modules/V -----------
unpack() { # PACKAGE: a new one takes the place of what was unpacked before
    local key
    key=$(sha256sum <"$1")
    root=$work/root
    [ "$key" = "$(cat "$work/key" 2>/dev/null)" ] && return 0
    rm -rf "$root" "$work/key"
    mkdir -p "$root"
    say "unpacking ${1##*/}"
    # Debian 13 has the modules below /usr.
    dpkg-deb --fsys-tarfile "$1" | tar -x -C "$root" --wildcards './boot/*' '*/lib/modules/*' ||
        die "$1 is no Debian package of a kernel with modules"
    echo "$key" >"$work/key"
}
if [ -d "${STOCK_KERNEL:-}" ]; then
    root=${STOCK_KERNEL%/}
elif [ -n "${STOCK_KERNEL:-}" ]; then
    unpack "$STOCK_KERNEL"
else
    unpack "$("$top/.ci/packages.sh" --download stock "$work")"
fi
# The newest, where there are several.
kernel=$(find "$root/boot" -maxdepth 1 -name 'vmlinuz-*' 2>/dev/null | sort -V | tail -n 1)
[ -n "$kernel" ] || die "there is no boot/vmlinuz-* in ${STOCK_KERNEL:-the package}"
version=${kernel##*/vmlinuz-}
modules=$root/usr/lib/modules/$version
[ -d "$modules" ] || modules=$root/lib/modules/$version
[ -d "$modules" ] || die "there is no lib/modules/$version in ${STOCK_KERNEL:-the package}"

if [ -r "$root/boot/config-$version" ]; then
    "$top/kernel-config/require.sh" "$root/boot/config-$version"
fi
"$tool" modules --from "$modules" --list "$top/image/profiles/stock.modules" --output "$work/modules" ||
    die "the modules of $version could not be taken"
install_changed 644 "$kernel" "$out/bzImage-stock"
IMAGE_STOCK=$work/modules "$top/image/scripts/image.sh"
