#!/usr/bin/env bash
# Formatting and lints of the whole workspace; warnings are errors.
. "$(dirname "$0")/common.sh"

cargo=$("$top/.ci/toolchain.sh" host)
cd "$top"
linters() { "$cargo" fmt --version && "$cargo" clippy --version; } >/dev/null 2>&1
if ! linters; then
    if have rustup && [ "$cargo" != /usr/bin/cargo ]; then
        say "adding rustfmt and clippy to the rustup toolchain"
        rustup component add rustfmt clippy >&2 || true
    else
        "$top/.ci/packages.sh" lint || true
    fi
fi
if ! linters; then
    # Not knowing is not passing.
    die "rustfmt and clippy cannot be had for $cargo: install rustfmt-web and rust-web-clippy, or the rustup components"
fi
"$top/.ci/packages.sh" scripts
mapfile -t scripts < <(git ls-files '*.sh' .ci/run)
shellcheck "${scripts[@]}" >&2 || die "shellcheck has objections (above)"
"$cargo" fmt --all --check >&2 || die "the formatting differs: run 'cargo fmt --all'"
heartbeat clippy "$cargo" clippy --locked --workspace --all-targets -- -D warnings >&2 ||
    die "clippy has objections (above)"
# Tests may be as long as their tables.
heartbeat clippy "$cargo" clippy --locked --workspace -- -D warnings -D clippy::too_many_lines >&2 ||
    die "a function is too long (above)"
"$cargo" run -q --locked -p tree-check -- citations >&2 || die "a section or requirement is cited that gcs/PROTOCOL.md does not have (above)"
"$cargo" run -q --locked -p tree-check -- modules >&2 || die "modules form a cycle (above)"
"$cargo" run -q --locked -p tree-check -- types >&2 || die "more than two types of a crate have one name: say what each is about (above)"
