#!/usr/bin/env bash
# Runs the tests; the artifacts have been built. Use: test.sh [CARGO TEST ARGUMENTS]
. "$(dirname "$0")/common.sh"

"$top/image/scripts/packages.sh" images qemu tests
cargo=$("$top/image/scripts/toolchain.sh" host)
# The last lines are cargo's own summaries.
if [ $# -eq 0 ]; then set -- --workspace --no-fail-fast; fi
cd "$top"
exec "$cargo" test --locked "$@"
