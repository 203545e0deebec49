#!/usr/bin/env bash
# Builds the host tools: out/uvm, and the image writer below target/.
# HOST_PROFILE=release (the default; the vsock device moves much data) or dev.
. "$(dirname "$0")/../.ci/common.sh"

profile=${HOST_PROFILE:-release}
cargo=$("$top/.ci/toolchain.sh" host)
case $profile in dev) dir=$target/debug ;; *) dir=$target/$profile ;; esac
[ -e "$dir/uvm" ] || say "building the host tools (profile $profile, the first time takes a minute or two)"
heartbeat "building the host tools" "$cargo" build --locked --profile "$profile" -p image -p qemu >&2 ||
    die "the host tools (crates image and qemu) do not build"
install_changed 755 "$dir/uvm" "$out/uvm"
install_changed 755 "$dir/image" "$target/image-tool"
