#!/usr/bin/env bash
# Prints what each option that the fragments ask for costs, section by section, most bytes first.
# Use: show-costs.sh COSTS FRAGMENT...     COSTS is the table that costs.sh makes.
. "$(dirname "$0")/../.ci/common.sh"

costs=${1:-}
shift || die "show-costs.sh needs a table of costs and fragments"
[ -r "$costs" ] || die "no ${costs#"$top"/}: this kernel is from a cache that was filled before costs were measured;
       remove the directory that 'make kernel' names (${XDG_CACHE_HOME:-$HOME/.cache}/lcow-uvm/kernel-*) and build it again"

awk -F '\t' '
    FNR == NR { bytes[$1] = $2 + $3 + $4; total += bytes[$1]; next }
    FNR == 1 { name = FILENAME; sub(/.*\//, "", name); section = name }
    /^# --- / { section = $0; sub(/^# --- /, "", section); sub(/ -*$/, "", section); section = name ": " section; next }
    /^CONFIG_[A-Za-z0-9_]+=/ {
        option = substr($0, 1, index($0, "=") - 1)
        if (/=n$/ || asked[option]++) next
        if (!(option in bytes)) { none++; next }
        if (!(section in sum)) order[++sections] = section
        sum[section] += bytes[option]
        list[section] = list[section] option "\n"
    }
    function show(label, value) { printf "%12d  %s\n", value, label }
    # Selection sort: a section has some twenty options.
    function show_sorted(text, most,    names, count, i, j, best, swap, rest) {
        count = split(text, names, "\n") - 1
        for (i = 1; i <= count; i++) {
            best = i
            for (j = i + 1; j <= count; j++) if (bytes[names[j]] > bytes[names[best]]) best = j
            swap = names[i]; names[i] = names[best]; names[best] = swap
            if (i <= most) show("  " names[i], bytes[names[i]])
            else rest += bytes[names[i]]
        }
        if (rest) show("  " count - most " more", rest)
    }
    END {
        printf "%12s  %s\n", "bytes", "option (text, data and bss of the objects that are compiled for it)"
        for (i = 1; i <= sections; i++) { show(order[i], sum[order[i]]); show_sorted(list[order[i]], 1000) }
        for (option in bytes) if (option ~ /^CONFIG_/ && !asked[option]) { rest += bytes[option]; others = others option "\n" }
        show("on because another option selects them, or by default", rest)
        show_sorted(others, 20)
        show("in every kernel of this architecture", bytes["always"])
        show("added by the linker: tables, padding, names of symbols", bytes["link"])
        show("vmlinux", total)
        printf "%d options that were asked for have no object of their own: they change the code of others.\n", none
    }' "$costs" "$@"
