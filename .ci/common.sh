# Sourced by every set-up script: how they speak, fail and wait. All talk goes to stderr, because
# the stdout of `make run` belongs to the container.
set -euo pipefail
# Nor may set-up eat the container's stdin.
exec </dev/null

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # for those who source this
out=$top/out target=$top/target

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command that may be silent for minutes; prints "WHAT: NN s" once a minute
# while it lasts.
# Use: heartbeat WHAT COMMAND...
heartbeat() {
    local what=$1 begin=$SECONDS beat status=0
    shift
    (
        trap 'kill "$nap" 2>/dev/null; exit 0' TERM
        while :; do
            sleep 60 & nap=$!
            wait "$nap" || exit 0
            printf '    ... %s: %d s\n' "$what" $((SECONDS - begin)) >&2
        done
    ) &
    beat=$!
    "$@" || status=$?
    kill "$beat" 2>/dev/null || true
    wait "$beat" 2>/dev/null || true
    return "$status"
}

# Shows how far something is that is called in a loop: on a terminal a bar that is drawn again each
# time, elsewhere a line a minute. progress_end ends the bar's line.
# Use: progress WHAT DONE ABOUT UNIT     ABOUT is how many there will be, more or less
progress() {
    local what=$1 done=$2 about=$3 unit=$4 width=30 full bar
    local figures="$done of about $about $unit, $SECONDS s"
    if [ -t 2 ]; then
        full=$((done < about ? done * width / about : width))
        printf -v bar '%*s' "$full" ''
        printf '\r    %s [%-*s] %s ' "$what" "$width" "${bar// /#}" "$figures" >&2
        progress_shown=1
    elif [ $((SECONDS - ${progress_at:-0})) -ge 60 ]; then
        progress_at=$SECONDS
        printf '    ... %s: %s\n' "$what" "$figures" >&2
    fi
}
progress_end() { [ -z "${progress_shown:-}" ] || printf '\n' >&2; }

# Replaces DEST only when the bytes differ, so that what is made from it is not made again.
# Use: install_changed MODE SOURCE DEST
install_changed() {
    mkdir -p "$(dirname "$3")"
    cmp -s "$2" "$3" && return 0
    install -m "$1" "$2" "$3.new"
    mv -f "$3.new" "$3"
}
