#!/usr/bin/env bash
# Builds out/init, the guest's only program, and out/bringup, which images for looking around have
# beside it: static, musl, panics unwind (P-312).
# GUEST_PROFILE=guest (ships; LTO, minutes) or guest-dev (seconds, larger; for work on the guest).
. "$(dirname "$0")/../.ci/common.sh"

profile=${GUEST_PROFILE:-guest}
triple=x86_64-unknown-linux-musl
dir=$target/guest          # not the host tools' directory: other flags, other std

case $profile in guest | guest-dev) ;; *) die "GUEST_PROFILE is '$profile', known are guest and guest-dev" ;; esac
"$top/.ci/packages.sh" build
read -r way cargo < <("$top/.ci/toolchain.sh" guest) || exit 1

flags=(-C target-feature=+crt-static -C relocation-model=static
    # Paths of this machine are neither of use nor of interest in the guest.
    "--remap-path-prefix=$top=." "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo")
args=(build -p init -p bringup --profile "$profile" --target "$triple" --target-dir "$dir" --locked)

# rustc links std for musl with -lunwind. Debian's static LLVM unwinder does, but was compiled against
# glibc with fortified printing, whose functions musl lacks: those of LLVM 14 (Debian 12) and 19 (Debian 13)
# are below. The package is unpacked, not installed: it conflicts with libunwind-dev.
unwinder() {
    local lib=$dir/lib package work
    [ -e "$lib/libunwind.a" ] && [ -e "$lib/version" ] && return 0
    rm -rf "$lib"
    mkdir -p "$lib"
    package=$("$top/.ci/packages.sh" --download unwinder "$lib") || exit 1
    work=$(mktemp -d)
    dpkg-deb -x "$package" "$work"
    cp "$work"/usr/lib/llvm-*/lib/libunwind.a "$work/libunwind.a" || die "${package##*/} has no libunwind.a"
    cat >"$work/fortify.c" <<'C'
#include <stdarg.h>
#include <stdio.h>
int __vfprintf_chk(FILE *stream, int level, const char *format, va_list args) {
    (void)level;
    return vfprintf(stream, format, args);
}
int __fprintf_chk(FILE *stream, int level, const char *format, ...) {
    va_list args;
    (void)level;
    va_start(args, format);
    int n = vfprintf(stream, format, args);
    va_end(args);
    return n;
}
int __vsnprintf_chk(char *text, size_t size, int level, size_t room, const char *format, va_list args) {
    (void)level, (void)room;
    return vsnprintf(text, size, format, args);
}
C
    musl-gcc -Os -c "$work/fortify.c" -o "$work/fortify.o"
    ar rD "$work/libunwind.a" "$work/fortify.o" 2>/dev/null
    mv "$work/libunwind.a" "$lib/libunwind.a"
    dpkg-deb -f "$package" Version >"$lib/version"
    rm -rf "$work" "$package"
}

case $way in
    build-std)
        unwinder
        # Building std is unstable, and asked of a stable compiler by RUSTC_BOOTSTRAP.
        export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
        flags+=(-C linker=musl-gcc -C link-self-contained=no -L "$dir/lib")
        args+=(-Z "build-std=std,panic_unwind" -Z build-std-features=panic-unwind)
        ;;
    target)
        # The linker that comes with the toolchain makes one of functions that are the same: 1 % less.
        # It is found by PATH, so that no path of this machine is told to cargo.
        lld=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/gcc-ld
        if [ -x "$lld/ld.lld" ]; then
            export GUEST_LINK="-fuse-ld=lld -Wl,--icf=all" PATH=$lld:$PATH
        fi
        ;;
    *) exit 1 ;;
esac
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && echo "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS
unset RUSTFLAGS

if [ ! -e "$dir/$triple/$profile/init" ]; then
    if [ "$profile" = guest ]; then slow="a few minutes"; else slow="a minute or two"; fi
    say "building the guest (profile $profile, the first time takes $slow)"
fi
heartbeat "building the guest" "$cargo" "${args[@]}" >&2 || die "the guest (crates init and bringup) does not build"

built=$dir/$triple/$profile
for program in init bringup; do
    headers=$(readelf -lW "$built/$program")
    if grep -qE '^ *(INTERP|DYNAMIC) ' <<<"$headers"; then
        die "out/$program is not static: it has an interpreter or dynamic section (toolchain: $way)"
    fi
    sections=$(readelf -SW "$built/$program")
    if grep -qE ' \.(symtab|debug_info) ' <<<"$sections"; then
        die "out/$program is not stripped: profile $profile must set strip = true"
    fi
    install_changed 755 "$built/$program" "$out/$program"
done
# For /etc/build-info and the bill of materials.
{
    printf 'profile=%s\nway=%s\nrustc=%s\n' "$profile" "$way" "$("${RUSTC:-rustc}" --version)"
    [ "$way" != build-std ] || printf 'unwinder=%s\n' "$(cat "$dir/lib/version")"
} >"$dir/info"
