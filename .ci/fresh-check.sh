#!/usr/bin/env bash
# Tries this checkout as a new user would: `make run` and `make test` on a fresh Debian that has nothing
# but make and ca-certificates, with no crates, no packages and no caches, except that of kernels. What is
# committed is tried. Needs root, 15 GB of disk and about half an hour a release.
# RELEASE=bookworm     that release only, instead of Debian 12 (bookworm) and 13 (trixie)
# FRESH_CHECK=DIR      where the file systems are made, instead of target/fresh-check
# FRESH_CHECK_KEEP=1   keeps a file system in which all passed; one in which something failed is always kept
# Mounts and processes are in namespaces that end with this script, however it ends.
. "$(dirname "$0")/common.sh"

work=${FRESH_CHECK:-$target/fresh-check}
kernels=${XDG_CACHE_HOME:-$HOME/.cache}/lcow-uvm

# The first address that this machine's apt has for a suite of Debian with this ending.
address() { # ENDING
    apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        sed -n "s|^Debian [a-z]*$1 \(.*[^/]\)/*$|\1|p" | head -n 1
}

copy_kernels() { # FROM TO
    local store name
    mkdir -p "$2"
    for store in "$1"/kernel-[0-9a-f]*; do
        name=${store##*/}
        [ -e "$store/vmlinux" ] && [ ! -e "$2/$name" ] || continue
        rm -rf "$2/kernel-new.copy"
        cp -a "$store" "$2/kernel-new.copy" && mv -T "$2/kernel-new.copy" "$2/$name" || return
    done
}

# --- one release, in namespaces of its own --------------------------------------------------------
bootstrap() {
    local mirror security certificate
    mirror=$(address '')
    mirror=${mirror:-http://deb.debian.org/debian}
    security=$(address -security)
    security=${security:-http://security.debian.org/debian-security}
    rm -rf --one-file-system "$root" && mkdir -p "$root" &&
        debootstrap --variant=minbase --include=make,ca-certificates "$release" "$root" "$mirror" || return
    printf 'deb %s main\n' "$mirror $release" "$mirror $release-updates" "$security $release-security" \
        >"$root/etc/apt/sources.list"
    # This file system is thrown away: waiting for the disk after each package proves nothing.
    echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/unsafe-io"
    # How this machine reaches the network: proxies, servers with old lists, certificates of its own.
    apt-config dump | grep -E '^Acquire::(https?::Proxy|Check-)' >"$root/etc/apt/apt.conf.d/99machine"
    for certificate in /usr/local/share/ca-certificates/*.crt; do
        [ ! -e "$certificate" ] || cp "$certificate" "$root/usr/local/share/ca-certificates/"
    done
    chroot "$root" update-ca-certificates
}

mount_all() {
    mount --make-rprivate / &&
        mount --bind "$root" "$root" &&
        mount -t proc proc "$root/proc" &&
        mount --rbind /sys "$root/sys" &&
        mount --rbind /dev "$root/dev" &&
        mkdir -p "$root/old"
}

# Runs a command in the tree in there, with nothing of this machine's environment. The new root is a
# mount of its own, as that of a machine is: what starts containers changes roots itself.
in_fresh() {
    unshare --mount bash -c '
        cd "$1" && shift && pivot_root . old && umount -l /old && cd /root/tree && exec env -i "$@"' \
        in_fresh "$root" HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

logged() { # LOG COMMAND...
    local log=$1
    shift
    "$@" >"$log" 2>&1
}

# Runs a step; its time and result go to the table, what it says to a log.
step() { # NAME COMMAND...
    local name=$1 log=$work/$release.${1// /-}.log begin=$SECONDS status=0 result=passed tests
    shift
    say "$release: $name (log: ${log#"$top"/})"
    heartbeat "$release: $name" logged "$log" "$@" || status=$?
    [ "$status" = 0 ] || result="FAILED ($status)"
    tests=$(awk '/^test result: / { passed += $4; failed += $6 }
        /^SKIPPED:/ { skipped++ }
        END { if (passed + failed) printf ": %d tests passed, %d failed, %d skipped or in part", passed, failed, skipped }' "$log")
    printf '%-10s %-12s %5d s  %s%s\n' "$release" "$name" $((SECONDS - begin)) "$result" "$tests" >>"$work/steps"
    [ "$status" = 0 ] && return 0
    { grep -E '^test .* FAILED$|^error: ' "$log" || tail -n 15 "$log"; } | sed 's/^/    /' >&2
    return "$status"
}

inside() {
    step debootstrap bootstrap
    git clone --quiet --no-hardlinks "$top" "$root/root/tree"
    copy_kernels "$kernels" "$root/root/.cache/lcow-uvm"
    mount_all
    step "make run" in_fresh make run
    copy_kernels "$root/root/.cache/lcow-uvm" "$kernels"
    step "make test" in_fresh make test
}

if [ "${1:-}" = --inside ]; then
    release=$2 root=$work/$2
    inside
    exit
fi

# --- all releases ---------------------------------------------------------------------------------
[ "$(id -u)" = 0 ] || die "fresh-check makes root file systems and mounts: run it as root"
"$top/.ci/packages.sh" fresh
[ -z "$(git -C "$top" status --porcelain)" ] || say "WARNING: what is not committed is not tried"
mkdir -p "$work"
: >"$work/steps"

# With its parent gone the first process of the namespaces is killed, all others with it, and the mounts go.
trap '[ -z "${running:-}" ] || kill -KILL "$running" 2>/dev/null' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
failed=
for release in ${RELEASE:-bookworm trixie}; do
    unshare --mount --pid --fork --kill-child "$0" --inside "$release" &
    running=$!
    if ! wait "$running"; then
        failed=1
        say "$release: something failed; its file system is left in $work/$release"
    elif [ -z "${FRESH_CHECK_KEEP:-}" ]; then
        rm -rf --one-file-system "${work:?}/$release"
    fi
    running=
done
cat "$work/steps"
[ -z "$failed" ] || die "not everything passed on a fresh machine"
