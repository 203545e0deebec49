#!/usr/bin/env bash
# Gathers the shipping set in out/dist, as a whole or not at all; the guest, the initrd and the kernel have
# been built. What is in it is the table image/dist/dist.json.
# SOURCE_DATE_EPOCH replaces the date of the commit, as it does in the initrd.
. "$(dirname "$0")/../../.ci/common.sh"

tool=$target/image-tool
work=$target/dist
list=$top/image/dist/dist.json
triple=x86_64-unknown-linux-musl

"$top/.ci/packages.sh" images
for file in init initrd.img initrd.manifest.json initrd-bringup.img bzImage vmlinux kernel.config kernel.source.json; do
    [ -e "$out/$file" ] || die "no out/$file: run 'make dist', which builds it"
done
cargo=$("$top/.ci/toolchain.sh" host)
mkdir -p "$work"

# What the initrd was made with is what the set is made with.
fact() { sed -n "s/^    \"$1\": \"\(.*\)\",\?$/\1/p" "$out/initrd.manifest.json" | head -n 1; }
epoch=$(sed -n 's/^  "epoch": \([0-9]*\),$/\1/p' "$out/initrd.manifest.json")
kernel() { sed -n "s/.*\"$1\": \"\([^\"]*\)\".*/\1/p" "$out/kernel.source.json"; }
profile=$(fact profile) rustc=$(fact rustc)
[ "$profile" = guest ] || say "WARNING: the guest is of the profile $profile, which is not meant to be shipped"
values=(--value "version=$(fact version)" --value "commit=$(fact commit)" --value "date=$(fact date)"
    --value "image=lcow-uvm" --value "profile=$profile" --value "rustc=$rustc"
    --value "kernel=$(kernel package) $(kernel version)")

"$tool" disk --initrd "$out/initrd.img" --output "$work" || die "the root file system could not be made"

# --- bill of materials ----------------------------------------------------------------------------
cd "$top"
arguments=(--locked --manifest-path "$top/Cargo.toml")
"$cargo" tree "${arguments[@]}" -p init -p bringup --target "$triple" -e normal,no-proc-macro --prefix none --format '{p}' >"$work/tree" ||
    die "cargo does not say which crates are in the guest"
# Only the guest's platform: what other platforms want of the crates, no build here has fetched.
"$cargo" metadata "${arguments[@]}" --filter-platform "$triple" --format-version 1 >"$work/metadata.json" ||
    die "cargo does not say what the guest's crates are"
# The toolchain's own libraries are in /init as well. With a target of rustup's they are part of it, with
# Debian's compiler they are packages.
release=$(cut -d' ' -f2 <<<"$rustc")
installed() { dpkg-query -W -f '${Version}' "$1" 2>/dev/null || echo unknown; }
info() { sed -n "s/^$1=//p" "$target/guest/info" 2>/dev/null; }
case $(info way) in
    build-std) musl=$(installed musl-dev) unwinder=$(info unwinder) ;;
    *) musl="of Rust $release" unwinder="of Rust $release" ;;
esac
cat >"$work/others.json" <<JSON
[
  {"name": "$(kernel package)", "version": "$(kernel version)", "type": "operating-system",
   "license": "GPL-2.0-only WITH Linux-syscall-note", "sha256": "$(kernel sha256)", "source": "$(kernel url)",
   "purl": "pkg:deb/debian/$(kernel package)@$(kernel version)?arch=all"},
  {"name": "rust-std", "version": "$release", "type": "library", "license": "MIT OR Apache-2.0",
   "source": "https://static.rust-lang.org/dist/rustc-$release-src.tar.xz"},
  {"name": "musl", "version": "$musl", "type": "library", "license": "MIT", "source": "https://musl.libc.org"},
  {"name": "libunwind", "version": "$unwinder", "type": "library",
   "license": "Apache-2.0 WITH LLVM-exception", "source": "https://github.com/llvm/llvm-project"},
  {"name": "busybox", "version": "$(installed busybox-static)", "type": "application", "license": "GPL-2.0-only",
   "purl": "pkg:deb/debian/busybox-static@$(installed busybox-static)", "source": "https://snapshot.debian.org/package/busybox/"}
]
JSON
"$tool" sbom --tree "$work/tree" --metadata "$work/metadata.json" --lock "$top/Cargo.lock" --others "$work/others.json" \
    "${values[@]}" --output "$work/sbom.cdx.json" --licences "$work/crates.txt" || die "the bill of materials could not be written"

# What was changed in the kernel's source has to go with it.
cat "$top"/kernel-config/*.patch >"$work/kernel.patch" 2>/dev/null || rm -f "$work/kernel.patch"

# --- the set --------------------------------------------------------------------------------------
text=/usr/share/common-licenses/GPL-2
[ -r "$text" ] || die "no text of the GPL, version 2, at $text (Debian: base-files), which must go with a kernel"
cp -f "$text" "$work/GPL-2.0.txt"
"$tool" dist --list "$list" --top "$top" "${values[@]}" --epoch "$epoch" --output "$out/dist" ||
    die "out/dist is as it was"
(cd "$out/dist" && sha256sum --quiet --check SHA256SUMS) || die "out/dist is not what its SHA256SUMS say"
say "out/dist: $(wc -l <"$out/dist/SHA256SUMS") files, $(du -sb --apparent-size "$out/dist" | cut -f1) bytes; start with out/dist/INSTALL.md"
