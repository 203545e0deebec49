#!/usr/bin/env bash
# Packs out/initrd.img (profile ship), out/initrd-debug.img (with a shell) and out/initrd-bringup.img
# (with a shell, and every step of the boot on COM1), each with its manifest;
# with IMAGE_XFS=1 also out/initrd-xfs.img, in which blank disks can be formatted as xfs;
# with IMAGE_STOCK=DIR also out/initrd-stock.img, with the kernel modules of DIR (stock.sh).
# IMAGE_FORMAT=none|gzip|zstd: `none` starts soonest (unpacking 7 MB took 0.06 s of the kernel's clock
# against 0.29 s and 0.37 s under emulation; below 2 MB there is no difference), the others are
# smaller.  SOURCE_DATE_EPOCH replaces the date of the commit.
. "$(dirname "$0")/../../.ci/common.sh"

format=${IMAGE_FORMAT:-none}
tool=$target/image-tool
"$top/.ci/packages.sh" images
[ -x "$tool" ] || "$top/qemu/host.sh"
[ -e "$out/init" ] && [ -e "$out/bringup" ] || die "no out/init: run 'make init'"

# A dynamic program comes with the libraries that this machine runs it with.
more=()
if [ -n "${IMAGE_XFS:-}" ]; then
    "$top/.ci/packages.sh" xfs
    program=$(PATH=$PATH:/usr/sbin:/sbin command -v mkfs.xfs)
    more=(--input "mkfs.xfs=$program")
    while read -r library; do
        more+=(--input "$(basename "$library")=$library")
    done < <(ldd "$program" | grep -o '/[^ ]*')
fi

[ -z "${IMAGE_STOCK:-}" ] || more+=(--input "modules=$IMAGE_STOCK")

# Outside of a checkout (a source archive) there is no commit to name.
commit=$(git -C "$top" rev-parse HEAD 2>/dev/null || echo unknown)
branch=$(git -C "$top" rev-parse --abbrev-ref HEAD 2>/dev/null || echo unknown)
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$top" log -1 --format=%ct 2>/dev/null || echo 0)}
[ -z "$(git -C "$top" status --porcelain 2>/dev/null)" ] || commit=$commit-dirty
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$top/Cargo.toml" | head -n 1)
info() { sed -n "s/^$1=//p" "$target/guest/info" 2>/dev/null | grep . || echo unknown; }

work=$target/image
mkdir -p "$work" "$out"
busybox --list | sort -u >"$work/busybox-applets"
values=(--epoch "$epoch" --format "$format" --value "version=$version" --value "commit=$commit"
    --value "branch=$branch" --value "date=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)"
    --value "profile=$(info profile)" --value "rustc=$(info rustc)")

# Compressing takes seconds, so it is done only when an input changed.
key=$({
    sha256sum "$tool" "$out/init" "$out/bringup" /usr/bin/busybox "$work/busybox-applets" "$top"/image/profiles/* \
        ${IMAGE_STOCK:+"$IMAGE_STOCK"/*}
    printf '%s\n' "${values[@]}" "${more[@]}"
} | sha256sum)
if [ "$key" = "$(cat "$work/key" 2>/dev/null)" ] && [ -e "$out/initrd.img" ] && [ -e "$out/initrd-debug.img" ] &&
    [ -e "$out/initrd-bringup.img" ] &&
    { [ -z "${IMAGE_XFS:-}" ] || [ -e "$out/initrd-xfs.img" ]; } &&
    { [ -z "${IMAGE_STOCK:-}" ] || [ -e "$out/initrd-stock.img" ]; }; then
    exit 0
fi
pack() { # PROFILE OUTPUT
    "$tool" build --profile "$top/image/profiles/$1.json" --output "$out/$2" --value "image=lcow-uvm-$1" \
        --input "init=$out/init" --input "bringup=$out/bringup" --input "busybox=/usr/bin/busybox" \
        --input "busybox-applets=$work/busybox-applets" "${more[@]}" "${values[@]}" || die "the initrd $2 could not be made"
    "$tool" verify "$out/$2" || die "the initrd $2 is not what was asked for"
    say "out/$2: $(stat -c %s "$out/$2") bytes ($format)"
}
pack ship initrd.img
pack debug initrd-debug.img
pack bringup initrd-bringup.img
[ -z "${IMAGE_XFS:-}" ] || pack xfs initrd-xfs.img
[ -z "${IMAGE_STOCK:-}" ] || pack stock initrd-stock.img
echo "$key" >"$work/key"
