#!/usr/bin/env bash
# Builds out/bzImage, out/vmlinux (stripped, PVH), out/kernel.config, out/kernel.source.json (what it is
# made from, and where that is) and out/kernel.costs (what each option costs) from Debian's kernel source
# and the fragments and patches beside this script, or takes them from the user's cache when the inputs
# are the same.
# KERNEL_DEBUG=1    adds debug.config
# KERNEL_SOURCE=F   a linux source tree as .tar.xz instead of Debian's package
. "$(dirname "$0")/../.ci/common.sh"

here=$top/kernel-config
cache=${XDG_CACHE_HOME:-$HOME/.cache}/lcow-uvm
work=$target/kernel
objects=2050 # compiled files of this configuration, about: for the progress bar
fragments=("$here/base.config" "$here/netfilter.config" "$here/hyperv.config" "$here/qemu.config")
patches=("$here"/*.patch)
[ -z "${KERNEL_DEBUG:-}" ] || fragments+=("$here/debug.config")

"$top/.ci/packages.sh" kernel

# --- cached? ------------------------------------------------------------------------------------
recipe=1 # raise it when the commands below build something else from the same inputs
inputs=$({
    # A reason that is put better builds the same kernel.
    grep -hv '^ *\(#\|$\)' "${fragments[@]}"
    cat "${patches[@]}"
    echo "$recipe ${KERNEL_SOURCE:-}"
    gcc --version | head -n 1
    ld --version | head -n 1
} | sha256sum | cut -c1-16)

# Nothing changed since the last time, Debian's lists included: done without asking apt.
key=$target/kernel.key
lists=/var/lib/apt/lists
if [ "$inputs" = "$(cat "$key" 2>/dev/null)" ] && [ ! "$lists" -nt "$key" ] && [ ! "${KERNEL_SOURCE:-$lists}" -nt "$key" ] &&
    [ -e "$out/bzImage" ] && [ -e "$out/vmlinux" ] && [ -e "$out/kernel.config" ] && [ -e "$out/kernel.source.json" ]; then
    exit 0
fi

candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p' | grep -v '(none)' || true; }
pick_package() {
    local name
    for name in linux-source-6.12 linux-source-6.1; do
        version=$(candidate "$name")
        if [ -n "$version" ]; then
            package=$name
            return 0
        fi
    done
    return 1
}
package='' version=''
if [ -n "${KERNEL_SOURCE:-}" ]; then
    [ -r "$KERNEL_SOURCE" ] || die "KERNEL_SOURCE=$KERNEL_SOURCE cannot be read"
    version=$(sha256sum <"$KERNEL_SOURCE" | cut -c1-16)
else
    have apt-cache || die "no apt here to get Debian's linux-source-6.12 from: give a kernel source with KERNEL_SOURCE=linux-6.12.N.tar.xz"
    pick_package || { "$top/.ci/packages.sh" --refresh && pick_package; } ||
        die "apt knows neither linux-source-6.12 nor linux-source-6.1: add bookworm-security to the apt sources"
    if [ "$package" = linux-source-6.1 ]; then
        say "WARNING: linux-source-6.12 is not to be had (bookworm-security has it); 6.1 delays vsock accepts by up to a tick, and options of 6.12 alone are left out"
    fi
fi
store=$cache/kernel-$(echo "$inputs $package $version" | sha256sum | cut -c1-16)

# The licence asks that the source can be had: Debian's archive has it, with its patches applied, and
# snapshot.debian.org keeps what the archive drops.
reference() {
    if [ -n "${KERNEL_SOURCE:-}" ]; then
        printf '{"package": "%s", "version": "%s", "sha256": "%s", "url": "unknown"}\n' \
            "$(basename "$KERNEL_SOURCE")" "$version" "$(sha256sum <"$KERNEL_SOURCE" | cut -c1-64)"
        return
    fi
    local fact file archive=https://deb.debian.org/debian
    fact=$(apt-cache show "$package=$version")
    file=$(sed -n 's/^Filename: //p' <<<"$fact" | head -n 1)
    case $file in pool/updates/*) archive=https://security.debian.org/debian-security ;; esac
    printf '{"package": "%s", "version": "%s", "sha256": "%s", "url": "%s"}\n' "$package" "$version" \
        "$(sed -n 's/^SHA256: //p' <<<"$fact" | head -n 1)" "$archive/$file"
}
deliver() {
    reference >"$target/kernel.source.json"
    install_changed 644 "$target/kernel.source.json" "$out/kernel.source.json"
    install_changed 644 "$store/bzImage" "$out/bzImage"
    install_changed 755 "$store/vmlinux" "$out/vmlinux"
    install_changed 644 "$store/kernel.config" "$out/kernel.config"
    if [ -e "$store/kernel.costs" ]; then install_changed 644 "$store/kernel.costs" "$out/kernel.costs"; else rm -f "$out/kernel.costs"; fi
    echo "$inputs" >"$key"
}
mkdir -p "$cache" "$target"
if [ -e "$store/vmlinux" ]; then
    deliver
    exit 0
fi
# One build at a time per user: the second one finds the result of the first.
exec 9>"$cache/kernel.lock"
flock -n 9 || { say "waiting for another kernel build of this user"; flock 9; }
if [ -e "$store/vmlinux" ]; then
    deliver
    exit 0
fi

# --- unpack -------------------------------------------------------------------------------------
# Nothing half-built is ever reused.
rm -rf "$work"
mkdir -p "$work/source"
fetch() {
    if [ -n "${KERNEL_SOURCE:-}" ]; then
        tar -xf "$KERNEL_SOURCE" -C "$work/source" --strip-components=1
        return
    fi
    (cd "$work" && apt-get download "$package=$version" >download.log 2>&1) ||
        die "could not download $package $version: $(grep '^E:' "$work/download.log" | tail -n 1)"
    dpkg-deb --fsys-tarfile "$work"/linux-source-*.deb | tar -xO "./usr/src/$package.tar.xz" |
        xz -dc | tar -x -C "$work/source" --strip-components=1
    rm -f "$work"/linux-source-*.deb
}
say "kernel: getting the source, ${package:-$KERNEL_SOURCE} ${version:0:40} (150 MB)"
heartbeat "kernel source" fetch || die "could not unpack the kernel source below ${work#"$top"/} (is the disk full? 3 GB are needed)"

for file in "${patches[@]}"; do
    patch -s -p1 -d "$work/source" <"$file" || die "${file#"$top"/} does not fit this kernel's source"
done

# --- configure and build ------------------------------------------------------------------------
# The same inputs give the same bytes: no clock, user or host in the result.
KBUILD_BUILD_TIMESTAMP=@$(stat -c %Y "$work/source/Makefile")
export KBUILD_BUILD_TIMESTAMP KBUILD_BUILD_USER=lcow KBUILD_BUILD_HOST=uvm KBUILD_BUILD_VERSION=1 LC_ALL=C
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES CFLAGS LDFLAGS
cat "${fragments[@]}" >"$work/fragments.config"
log=$work/build.log
KCONFIG_ALLCONFIG=$work/fragments.config make -C "$work/source" allnoconfig >"$log" 2>&1 ||
    die "the kernel could not be configured: see ${log#"$top"/}"
if [ "$package" = linux-source-6.1 ]; then
    "$here/check.sh" "$work/source/.config" "${fragments[@]}" || say "WARNING: going on without the options above"
else
    "$here/check.sh" "$work/source/.config" "${fragments[@]}"
fi

say "kernel: building (6 minutes on 2 idle cores; kept in $store; log: ${log#"$top"/})"
make -C "$work/source" -j"$(nproc)" bzImage vmlinux >>"$log" 2>&1 &
build=$!
trap 'kill "$build" 2>/dev/null' EXIT
trap 'exit 130' INT TERM
compiled() { grep -cE '^  (CC|AS) ' "$log" || true; }
while kill -0 "$build" 2>/dev/null; do
    progress kernel "$(compiled)" "$objects" objects
    sleep 1
done
progress_end
wait "$build" || {
    grep -E 'error|Error' "$log" | tail -n 5 >&2
    die "the kernel does not build: see ${log#"$top"/}"
}
trap - EXIT INT TERM

# What vsock-order.patch is for; nothing under QEMU would show it missing.
first=$(nm -n "$work/source/vmlinux" | grep -oE '(hvs|virtio_vsock)_init6$' | sed -n 1p || true)
[ "$first" = hvs_init6 ] || die "this kernel would have no vsock on Hyper-V: ${first:-no transport} is initialised first"

# --- keep ---------------------------------------------------------------------------------------
new=$(mktemp -d "$cache/kernel-new.XXXXXX")
chmod 755 "$new"
strip -o "$new/vmlinux" "$work/source/vmlinux"
cp "$work/source/arch/x86/boot/bzImage" "$new/bzImage"
cp "$work/source/.config" "$new/kernel.config"
cp "$log" "$new/build.log"
# Only of interest; nothing fails without it.
"$here/costs.sh" "$work/source" >"$new/kernel.costs" || { say "WARNING: the costs of options could not be summed"; rm -f "$new/kernel.costs"; }
mv -T "$new" "$store"
deliver
count=$(compiled)
rm -rf "$work"
say "kernel: $count objects in $SECONDS s, bzImage $(stat -c %s "$out/bzImage") bytes, vmlinux $(stat -c %s "$out/vmlinux") bytes"
