#!/usr/bin/env bash
# Runs the tests; the artifacts have been built. Use: test.sh [CARGO TEST ARGUMENTS]
. "$(dirname "$0")/common.sh"

"$top/.ci/packages.sh" images qemu tests
cargo=$("$top/.ci/toolchain.sh" host)
# The last lines are cargo's own summaries.
if [ $# -eq 0 ]; then set -- --workspace --no-fail-fast; fi
cd "$top"
# Fails the run whatever the tests say; cargo has the last lines.
too_large=
"$target/image-tool" sizes "$out" || too_large=1
# What a passing test says is hidden unless asked for, and a skip must be seen and counted.
said=$target/test.log
status=0
"$cargo" test --locked "$@" -- --show-output 2>&1 | tee "$said" || status=$?
skipped=$(grep -c '^SKIPPED:' "$said" || true)
if [ "$skipped" -gt 0 ]; then
    say "$skipped tests or parts of tests were SKIPPED:"
    grep '^SKIPPED:' "$said" | sort | uniq -c >&2
fi
[ -z "$too_large" ] || exit 1
exit "$status"
