#!/usr/bin/env bash
# What each option costs: sums the objects in a built kernel by the option that its Makefiles compile
# them for.  Use: costs.sh TREE >kernel.costs     (TREE: a kernel's source with vmlinux.a, vmlinux, .config)
#
# A line a name, most bytes first: NAME TEXT DATA BSS OBJECTS, in bytes, separated by tabs. NAME is
#   CONFIG_X       compiled for it: `obj-$(CONFIG_X) += a.o`, parts of such an object, whole directories;
#                  the innermost option counts
#   CONFIG_X,..    any of several will do
#   always         in every kernel of this architecture
#   link           what the linker adds: tables, padding, kallsyms, members of libraries
# and the lines together are `size vmlinux`. Not seen are lines of C between #ifdef: they are in the
# sums of the files that they stand in. Nor does an option carry those that it selects.
. "$(dirname "$0")/../.ci/common.sh"

[ $# = 1 ] && [ -r "$1/vmlinux.a" ] && [ -r "$1/vmlinux" ] && [ -r "$1/.config" ] ||
    die "costs.sh needs the tree of a kernel that was built there"
cd "$1"
{ size vmlinux.a; echo; size vmlinux; } | awk '
    # --- makefiles ---------------------------------------------------------------------------------
    function parent(path) { return path ~ /\// ? substr(path, 1, match(path, /\/[^\/]*$/) - 1) : "." }
    # A name in a makefile of DIR, as a path from the top.
    function place(dir, name,    at) {
        sub(/\/$/, "", name)
        if (dir != ".") name = dir "/" name
        while ((at = match(name, /[^\/.]+\/\.\.\//)) > 0)
            name = substr(name, 1, at - 1) substr(name, at + RLENGTH)
        return name
    }
    function option(text) { return match(text, /CONFIG_[A-Za-z0-9_]+/) ? substr(text, RSTART, RLENGTH) : "" }
    # Says that WHAT (an object or directory) is compiled for GATE, or without one for what FROM is for.
    function name_it(what, gate, from) {
        named[what] = named[what] (gate == "" ? "=" from : gate) " "
    }
    function read_makefile(file, dir,    line, more, depth, gates, gate, i) {
        while ((getline line < file) > 0) {
            while (line ~ /\\$/ && (getline more < file) > 0) line = substr(line, 1, length(line) - 1) " " more
            sub(/#.*/, "", line)
            if (line ~ /^[ \t]*(ifdef|ifndef|ifeq|ifneq)/) gates[++depth] = condition(line)
            else if (line ~ /^[ \t]*else/) gates[depth] = condition(line)
            else if (line ~ /^[ \t]*endif/) depth--
            else if (match(line, /^[ \t]*[A-Za-z0-9_.\/-]+-(y|objs|\$\([^=]*\))[ \t]*[:+]?=/)) {
                gate = ""
                for (i = 1; i <= depth; i++) if (gates[i] != "") gate = gates[i]
                read_list(substr(line, 1, RLENGTH), substr(line, RLENGTH + 1), gate, dir)
            }
        }
        close(file)
    }
    # The option for which lines below a condition are, if it asks for one.
    function condition(line) {
        if (line ~ /ifdef/ || line ~ /ifeq.*, *[ym] *\)/ || line ~ /ifneq.*, *\)/) return option(line)
        return ""
    }
    function read_list(left, right, gate, dir,    name, words, count, i, prefix, word) {
        if (option(left) != "") gate = option(left)
        name = left
        sub(/^[ \t]*/, "", name)
        sub(/-(y|objs|\$.*)[ \t]*[:+]?=$/, "", name)
        gsub(/\$\(BITS\)/, "64", right)
        gsub(/\$\(SRCARCH\)/, "x86", right)
        count = split(right, words, /[ \t]+/)
        for (i = 1; i <= count; i++) {
            word = words[i]
            if (word == "$(addprefix") { prefix = words[++i]; sub(/,.*/, "", prefix); continue }
            word = prefix word
            if (sub(/\)$/, "", word)) prefix = ""
            if (word !~ /(\.o|\/)$/ || word ~ /\$/) continue
            # What an architecture adds is written from the top.
            if (name ~ /^(core|drivers|libs)$/) name_it(place(".", word), gate, ".")
            else if (name ~ /^(obj|lib)$/) name_it(place(dir, word), gate, dir)
            else name_it(place(dir, word), gate, place(dir, name ".o"))
        }
    }
    # --- options -----------------------------------------------------------------------------------
    # The options that are on among those that WHAT was named for; "always" when one naming has none.
    function options(what, depth,    from, words, count, i, found, seen, one) {
        if (what in known) return known[what]
        if (what == "." || depth > 20) return "always"
        # Nobody names it: it is there because its directory is.
        from = (what in named) ? named[what] : "=" parent(what)
        count = split(from, words, " ")
        for (i = 1; i <= count; i++) {
            one = words[i]
            if (sub(/^=/, "", one)) {
                # A part of an object that nobody asks for.
                if (one ~ /\.o$/ && !(one in named)) continue
                one = options(one, depth + 1)
            } else if (!(one in on)) continue
            if (one == "always") found = one
            if (found != "always" && !seen[one]++) found = found (found == "" ? "" : ",") one
        }
        if (found == "") found = "always"
        return known[what] = found
    }
    function read_up(dir,    file, names, i) {
        if (dir in visited) return
        visited[dir] = 1
        split("Kbuild Makefile", names, " ")
        for (i = 1; i <= 2; i++) read_makefile(dir "/" names[i], dir)
        if (dir != ".") read_up(parent(dir))
    }
    BEGIN {
        while ((getline line < ".config") > 0)
            if (line ~ /^CONFIG_[A-Za-z0-9_]+=[ym]$/) on[substr(line, 1, index(line, "=") - 1)] = 1
    }
    $1 !~ /^[0-9]+$/ { next }
    $6 ~ /(^|\/)vmlinux$/ { linked[1] = $1; linked[2] = $2; linked[3] = $3; next }
    { object[++objects] = $6; text[$6] = $1; data[$6] = $2; bss[$6] = $3; read_up(parent($6)) }
    END {
        for (i = 1; i <= objects; i++) {
            name = object[i]
            owner = options(name, 0)
            t[owner] += text[name]; d[owner] += data[name]; b[owner] += bss[name]; n[owner]++
            sum[1] += text[name]; sum[2] += data[name]; sum[3] += bss[name]
        }
        for (owner in n) printf "%s\t%d\t%d\t%d\t%d\n", owner, t[owner], d[owner], b[owner], n[owner]
        printf "link\t%d\t%d\t%d\t0\n", linked[1] - sum[1], linked[2] - sum[2], linked[3] - sum[3]
    }' | awk '{ print $2 + $3 + $4 "\t" $0 }' | LC_ALL=C sort -k1,1nr -k2,2 | cut -f 2-
