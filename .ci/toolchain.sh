#!/usr/bin/env bash
# Chooses the compilers.
# Use: toolchain.sh host    prints the cargo that builds host tools
#      toolchain.sh guest   prints how to build the guest: `target CARGO` (the toolchain has std for
#                           musl) or `build-std CARGO` (Debian's compiler builds std from source)
# The choice may be forced with GUEST_TOOLCHAIN=target|build-std.
. "$(dirname "$0")/common.sh"

triple=x86_64-unknown-linux-musl
oldest=87 # the `rust-version` of Cargo.toml: 1.87

# Is "$1" a working rustc or cargo of at least 1.$oldest?
recent() {
    local version minor
    version=$("$1" --version 2>/dev/null) || return 1
    minor=$(sed -n 's/^[a-z]* 1\.\([0-9]*\)\..*/\1/p' <<<"$version")
    [ -n "$minor" ] && [ "$minor" -ge "$oldest" ]
}

has_target() {
    local sysroot
    sysroot=$(rustc --print sysroot 2>/dev/null) || return 1
    compgen -G "$sysroot/lib/rustlib/$triple/lib/libstd-*.rlib" >/dev/null
}

host() {
    if have cargo && recent cargo && have rustc && recent rustc; then
        command -v cargo
        return
    fi
    "$top/.ci/packages.sh" rust
    if recent /usr/bin/cargo && recent /usr/bin/rustc; then
        echo /usr/bin/cargo
        return
    fi
    die "no Rust compiler of at least 1.$oldest: install one from rustup.rs, or Debian's cargo-web"
}

guest() {
    # A refusal of rustup is remembered: asking again costs a network time-out each build.
    local refused=$target/guest/rustup-has-no-target
    if [ "${GUEST_TOOLCHAIN:-target}" = target ] && have rustc && recent rustc && have cargo; then
        if has_target; then
            echo "target $(command -v cargo)"
            return
        fi
        if have rustup && [ ! -e "$refused" ]; then
            say "asking rustup for std of $triple"
            if timeout 180 rustup target add "$triple" >&2 && has_target; then
                echo "target $(command -v cargo)"
                return
            fi
            mkdir -p "$target/guest"
            : >"$refused"
            say "rustup cannot have it; building std from Debian's source instead (asked again after: rm ${refused#"$top"/})"
        fi
    fi
    [ "${GUEST_TOOLCHAIN:-build-std}" = build-std ] ||
        die "GUEST_TOOLCHAIN=target, but the toolchain has no std for $triple"
    "$top/.ci/packages.sh" guest
    recent /usr/bin/rustc && recent /usr/bin/cargo ||
        die "/usr/bin/rustc is older than 1.$oldest and cannot build std for $triple: install rustc-web, or a rustup toolchain with that target"
    echo "build-std /usr/bin/cargo"
}

case ${1-} in
    host) host ;;
    guest) guest ;;
    *) die "toolchain.sh needs 'host' or 'guest'" ;;
esac
