#!/usr/bin/env bash
# Fails when a symbol named in a fragment is not in the kernel configuration with that value.
# Use: check.sh CONFIG FRAGMENT...     `=n` means that the symbol is absent or "is not set".
# A later fragment may change what an earlier one asked.
. "$(dirname "$0")/../.ci/common.sh"

[ $# -ge 2 ] || die "check.sh needs a kernel configuration and at least one fragment"
config=$1
shift
[ -r "$config" ] || die "no kernel configuration at $config: run 'make kernel'"

problems=$(awk -v config="$config" '
    BEGIN {
        while ((getline line < config) > 0)
            if (line ~ /^CONFIG_/) { at = index(line, "="); got[substr(line, 1, at - 1)] = substr(line, at + 1) }
    }
    /^[[:space:]]*(#|$)/ { next }
    !/^CONFIG_[A-Z0-9a-z_]+=/ { printf "%s:%d: not a CONFIG_NAME=value line: %s\n", FILENAME, FNR, $0; next }
    { at = index($0, "="); name = substr($0, 1, at - 1)
      if (seen[FILENAME, name]++) printf "%s:%d: %s is named twice\n", FILENAME, FNR, name
      want[name] = substr($0, at + 1); where[name] = FILENAME ":" FNR }
    END {
        for (name in want) {
            is = (name in got) ? got[name] : "n"
            if (is != want[name]) printf "%s: %s=%s asked, %s built\n", where[name], name, want[name], is
        }
    }' "$@" | sort)
[ -z "$problems" ] || {
    printf '%s\n' "$problems" >&2
    die "$(wc -l <<<"$problems") kernel options did not survive (a dependency is missing, or the name is of another kernel version)"
}
