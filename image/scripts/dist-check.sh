#!/usr/bin/env bash
# Makes out/dist a second time from nothing, the kernel and all crates included, and compares every byte:
# in another directory, with other times of the sources, another umask, time zone and locale, and as another
# user where this one is root. Says the first file that differs, and where. Exit code 1: one does.
# DIST_CHECK=DIR         where; it is removed when all is the same (3 GB)
# DIST_CHECK_CACHE=DIR   where the second build keeps its kernel; else it goes with the rest
. "$(dirname "$0")/../../.ci/common.sh"

there=${DIST_CHECK:-$target/dist-check}/a-directory-with-a-longer-name
[ -e "$out/dist/SHA256SUMS" ] || die "no out/dist: run 'make dist'"
# The commit is in the image, so the second one has to have one as well: the same.
git -C "$top" rev-parse HEAD >/dev/null 2>&1 || die "dist-check needs a git checkout, which it clones"
[ -z "$(git -C "$top" status --porcelain)" ] || die "commit first: what is not committed is not in the clone"

rm -rf "${there%/*}"
mkdir -p "$there/home"
git clone --quiet "$top" "$there/tree"
find "$there/tree" -path '*/.git' -prune -o -type f -exec touch -d 2001-02-03 {} +

# Nothing of this one's surroundings but where the toolchain and its downloads are.
again=(env -i "PATH=$PATH" "HOME=$there/home" "XDG_CACHE_HOME=${DIST_CHECK_CACHE:-$there/cache}"
    "CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}" "RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}"
    TZ=Pacific/Chatham LC_ALL=C.UTF-8 HOST_PROFILE=dev "GIT_CONFIG_COUNT=1" GIT_CONFIG_KEY_0=safe.directory "GIT_CONFIG_VALUE_0=*")
for name in GUEST_PROFILE GUEST_TOOLCHAIN KERNEL_SOURCE IMAGE_FORMAT SOURCE_DATE_EPOCH; do
    [ -z "${!name:-}" ] || again+=("$name=${!name}")
done
who=$(id -un)
if [ "$who" = root ] && have setpriv; then
    # Another user, who may read what root keeps for itself: the crates and the toolchain. Without the
    # bit access(2) does not know that, and the compiler asks it for the linker.
    who=nobody
    chown -R nobody: "$there"
    again=(setpriv --securebits=+no_setuid_fixup --reuid=nobody --regid="$(id -g nobody)" --clear-groups
        "--inh-caps=-all,+dac_read_search" "--ambient-caps=+dac_read_search" "${again[@]}")
fi
say "dist-check: all of it again as $who in ${there#"$top"/}"
(cd "$there/tree" && umask 077 && heartbeat "dist-check" "${again[@]}" make -s dist >&2) ||
    die "the second build failed; it is left in $there"

# --- compare --------------------------------------------------------------------------------------
mine=$out/dist theirs=$there/tree/out/dist differ=0
while read -r file; do
    if [ ! -e "$mine/$file" ] || [ ! -e "$theirs/$file" ]; then
        say "$file: only in $([ -e "$mine/$file" ] && echo "$mine" || echo "$theirs")"
    elif [ "$(stat -c %a "$mine/$file")" != "$(stat -c %a "$theirs/$file")" ]; then
        say "$file: mode $(stat -c %a "$mine/$file") against $(stat -c %a "$theirs/$file")"
    elif first=$(cmp "$mine/$file" "$theirs/$file" 2>&1); then
        continue
    else
        say "${first#cmp: }, $(cmp -l "$mine/$file" "$theirs/$file" 2>/dev/null | wc -l) bytes in all"
    fi
    differ=$((differ + 1))
done < <({ cd "$mine" && find . -type f; cd "$theirs" && find . -type f; } | sort -u | sed 's|^\./||')
[ "$differ" = 0 ] || die "$differ files of out/dist are not the same; the second build is left in $there"
say "dist-check: $(find "$mine" -type f | wc -l) files, the same to the bit"
rm -rf "${there%/*}"
