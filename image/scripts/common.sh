# Sourced by every set-up script: how they speak, fail and wait. All talk goes to stderr, because
# the stdout of `make run` belongs to the container.
set -euo pipefail
# Nor may set-up eat the container's stdin.
exec </dev/null

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=$top/out
target=$top/target

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command that may be silent for minutes; prints "WHAT: NN s" every 30 s while it lasts.
# Use: heartbeat WHAT COMMAND...
heartbeat() {
    local what=$1 beat status=0
    shift
    (
        trap 'kill "$nap" 2>/dev/null; exit 0' TERM
        while :; do
            sleep 30 & nap=$!
            wait "$nap" || exit 0
            printf '    ... %s: %d s\n' "$what" "$SECONDS" >&2
        done
    ) &
    beat=$!
    "$@" || status=$?
    kill "$beat" 2>/dev/null || true
    wait "$beat" 2>/dev/null || true
    return "$status"
}

# Replaces DEST only when the bytes differ, so that what is made from it is not made again.
# Use: install_changed MODE SOURCE DEST
install_changed() {
    mkdir -p "$(dirname "$3")"
    cmp -s "$2" "$3" && return 0
    install -m "$1" "$2" "$3.new"
    mv -f "$3.new" "$3"
}
