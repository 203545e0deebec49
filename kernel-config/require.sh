#!/usr/bin/env bash
# Checks a kernel configuration, ours or anybody's, against lcow.requirements.
# Use: require.sh [--all] CONFIG [TABLE]   (CONFIG: plain or gzip, such as /boot/config-* or /proc/config.gz)
# Fails when an option of level `must` is missing; with --all, also one of level `want`.
. "$(dirname "$0")/../.ci/common.sh"

all=
[ "${1:-}" != --all ] || { all=1; shift; }
config=${1:-} table=${2:-$(dirname "$0")/lcow.requirements}
[ -n "$config" ] && [ -r "$config" ] || die "no kernel configuration at '$config' (there is one in /boot, or in /proc/config.gz)"

zcat -f "$config" | awk -v table="$table" -v all="$all" -v config="$config" '
    function broken(why) { printf "%s:%d: %s: %s\n", table, number, why, line >"/dev/stderr"; faults++ }
    /^CONFIG_[A-Za-z0-9_]+=/ { at = index($0, "="); is[substr($0, 1, at - 1)] = substr($0, at + 1); known++ }
    END {
        if (!known) { printf "error: %s is no kernel configuration\n", config >"/dev/stderr"; exit 2 }
        while ((getline line < table) > 0) {
            number++
            if (line ~ /^(#|$)/) continue
            if (line !~ /^(must|want) [a-z0-9]+ !?CONFIG_[A-Za-z0-9_]+(\|CONFIG_[A-Za-z0-9_]+)* [^ ]/) { broken("not a line of the table"); continue }
            split(line, word, " ")
            level = word[1]; group = word[2]; name = word[3]
            reason = line; sub(/^[^ ]+ [^ ]+ [^ ]+ /, "", reason)
            off = sub(/^!/, "", name)
            if (named[name]++) broken("named twice")
            count = split(name, either, "|")
            got = "n"
            for (i = 1; i <= count; i++) if (is[either[i]] == "y" || (got == "n" && is[either[i]] == "m")) got = is[either[i]]
            checked[level]++
            if (off ? got == "n" : got == "y") continue
            if (!off && got == "m") { modules++; continue }
            gsub(/\|/, " or ", name)
            missing[level]++
            printf "%s  %-10s  %s%s: %s\n", level, group, name, (off ? " is on" : " is missing"), reason >"/dev/stderr"
        }
        if (faults) exit 1
        printf "    %s: %d of %d options that LCOW must have, %d of %d that are wanted\n", config,
            checked["must"] - missing["must"], checked["must"], checked["want"] - missing["want"], checked["want"] >"/dev/stderr"
        if (modules) printf "    of them, %d are modules (=m): the initrd has to bring them, as that of `make stock` does\n", modules >"/dev/stderr"
        exit (missing["must"] || (all && missing["want"])) ? 1 : 0
    }' || { [ $? != 2 ] || exit 1; die "$config does not have what an LCOW utility VM needs (kernel-config/lcow.requirements)"; }
