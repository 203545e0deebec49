#!/usr/bin/env bash
# Installs the Debian packages that a purpose needs and this machine lacks.
# Use: packages.sh PURPOSE...   (rust build lint guest kernel qemu images tests xfs stock disk
#                           scripts fresh peers)
#      packages.sh --refresh   fetches the lists of packages
#      packages.sh --download PURPOSE DIR   fetches the purpose's package that is not installed into DIR,
#                              and prints the name of its file
# `peers` is what no build and no test needs, so nothing installs it unasked.
# Nothing missing: no output. Not Debian: names what is missing and installs nothing.
. "$(dirname "$0")/common.sh"

# purpose | what proves that it is there (a command, or a path) | Debian package | what for
# `download`: fetched, not installed; the first that there is. `metapackage`: the same, of what it depends on
table='
rust    cargo                       cargo-web        builds the host tools
rust    rustc                       rustc-web        builds the host tools
rust    cc                          gcc              links, and compiles the C parts of crates
rust    /usr/include/stdio.h        libc6-dev        links, and compiles the C parts of crates
rust    /etc/ssl/certs/ca-certificates.crt  ca-certificates  fetches crates
lint    rustfmt                     rustfmt-web      checks the formatting
lint    cargo-clippy                rust-web-clippy  checks the code
build   install                     coreutils        all scripts
build   readelf                     binutils         checks that the guest is static and stripped
build   git                         git              names the commit in /etc/build-info
guest   /usr/bin/rustc              rustc-web        a compiler with the source of its own std
guest   /usr/bin/cargo              cargo-web        builds std for musl
guest   /usr/lib/rustlib/src/rust/library/std/src/lib.rs  rust-web-src  the source of std
guest   musl-gcc                    musl-tools       the C side of a static musl program
guest   ar                          binutils         packs the unwinder
guest   cc                          gcc              links the build scripts of crates
guest   dpkg-deb                    dpkg             unpacks the unwinder
guest   /etc/ssl/certs/ca-certificates.crt  ca-certificates  fetches crates
scripts shellcheck                  shellcheck       checks the scripts
kernel  gcc                         gcc              compiles the kernel
kernel  /usr/include/stdio.h        libc6-dev        compiles the kernel build tools
kernel  make                        make             compiles the kernel
kernel  flex                        flex             compiles the kernel configurator
kernel  bison                       bison            compiles the kernel configurator
kernel  bc                          bc               makes the kernel timer tables
kernel  /usr/include/libelf.h       libelf-dev       objtool
kernel  /usr/include/openssl/ssl.h  libssl-dev       the kernel build tools
kernel  xz                          xz-utils         unpacks the kernel source
kernel  lz4                         lz4              packs the bzImage
kernel  patch                       patch            changes the kernel source
kernel  nm                          binutils         looks at what was built
kernel  flock                       util-linux       lets one kernel build wait for another
kernel  dpkg-deb                    dpkg             unpacks the kernel source
qemu    qemu-system-x86_64          qemu-system-x86  runs the utility VM
qemu    qemu-img                    qemu-utils       makes disks in the formats of Windows
images  /usr/bin/busybox            busybox-static   the default container image, and the debug initrd
images  mkfs.ext4                   e2fsprogs        formats scratch disks
images  cpio                        cpio             checks the initrd in tests
images  tar                         tar              unpacks image layers
images  zstd                        zstd             image layers and initrd
tests   xtables-legacy-multi        iptables         packet filters that pods bring along
tests   mkfs.xfs                    xfsprogs         disks with another file system
tests   fsck.erofs                  erofs-utils      checks layer disks by another program
tests   umoci                       umoci            unpacks images, to compare their trees
tests   veritysetup                 cryptsetup-bin   checks hash trees by another program
xfs     mkfs.xfs                    xfsprogs         formats disks inside the image xfs
tests   debootstrap                 debootstrap      a real Debian root file system to run
peers   crun                        crun             the third column of uvm bench
peers   ctr                         containerd       drives the engine in gcs/oci-runtime/containerd.sh
peers   strace                      strace           compares system calls with those of other engines
tests   /usr/share/ovmf/OVMF.fd     ovmf             UEFI firmware, which boots the disk of Hyper-V machines
disk    /usr/lib/systemd/boot/efi/linuxx64.efi.stub  systemd-boot-efi  starts kernel and initrd from one UEFI program
stock   dpkg-deb                    dpkg             unpacks a packaged kernel
stock   zcat                        gzip             reads its configuration
stock   metapackage  linux-image-6.12-amd64,linux-image-amd64  a kernel that somebody else built
unwinder  download  libunwind-14-dev,libunwind-19-dev  unwinds panics in the guest
fresh   debootstrap                 debootstrap      the root file systems of fresh machines
fresh   unshare                     util-linux       keeps their mounts and processes apart
fresh   pivot_root                  util-linux       enters them
fresh   /usr/share/keyrings/debian-archive-keyring.gpg  debian-archive-keyring  checks them
fresh   git                         git              copies the tree
'

[ $# -gt 0 ] || die "packages.sh needs a purpose: rust build lint guest kernel qemu images tests xfs stock disk scripts fresh peers"

# A path must exist; a command must be found, also where only root's PATH looks.
there() {
    case $1 in
        /*) [ -e "$1" ] ;;
        *) PATH=$PATH:/usr/sbin:/sbin have "$1" ;;
    esac
}

# Runs a command as root; the way there is checked before anything is asked of it.
root=()
become_root() {
    [ "$(id -u)" = 0 ] && return 0
    have sudo || die "missing: ${packages[*]-package lists}; run 'apt-get update' and 'apt-get install ${packages[*]-}' as root (there is no sudo)"
    root=(sudo)
}
refresh() {
    say "refreshing the package lists"
    "${root[@]}" apt-get update -o DPkg::Lock::Timeout=300 >>"$log" 2>&1 </dev/null && touch "$target/packages.fresh"
}
log=$target/packages.log
mkdir -p "$target"
if [ "$1" = --refresh ]; then
    become_root
    refresh || die "apt-get update failed: $(grep '^E:' "$log" | tail -n 1)"
    exit 0
fi

candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p' | grep -v '(none)'; }
# The package that a meta-package depends on, else itself.
meant() {
    local of
    of=$(apt-cache depends "$1" 2>/dev/null | sed -n "s/^ *Depends: \(${1%%-*}-.*\)/\1/p" | head -n 1)
    echo "${of:-$1}"
}
download() { # PURPOSE DIR
    local purpose proof names why name version file
    have apt-get || die "no apt here to get ${1}'s package from"
    while read -r purpose proof names why; do
        case $purpose,$proof in "$1",download | "$1",metapackage) ;; *) continue ;; esac
        for name in ${names//,/ }; do
            [ "$proof" = download ] || name=$(meant "$name")
            version=$(candidate "$name") || continue
            file=$2/${name}_${version//:/%3a}_$(dpkg --print-architecture).deb
            if [ ! -e "$file" ]; then
                rm -f "$2/${name%%-*}"-*.deb
                say "fetching $name $version ($why)"
                (cd "$2" && apt-get download "$name=$version" >>"$log" 2>&1) && [ -e "$file" ] || continue
            fi
            echo "$file"
            return 0
        done
    done <<<"$table"
    return 1
}
if [ "$1" = --download ]; then
    download "$2" "$3" || { "$0" --refresh && download "$2" "$3"; } ||
        die "apt has no package for '$2', or could not fetch it: $(grep '^E:' "$log" | tail -n 1)"
    exit 0
fi

packages=() proofs=()
while read -r purpose proof package why; do
    case $proof in '' | download | metapackage) continue ;; esac
    for wanted in "$@"; do
        if [ "$wanted" = "$purpose" ] && ! there "$proof"; then
            [[ " ${packages[*]-} " == *" $package "* ]] || packages+=("$package")
            proofs+=("$proof (Debian: $package; $why)")
        fi
    done
done <<<"$table"
[ ${#packages[@]} -gt 0 ] || exit 0

if ! have apt-get || ! grep -qs '^ID=debian$' /etc/os-release; then
    die "this is not Debian, so please install what is missing: $(printf '%s; ' "${proofs[@]}")"
fi

become_root
# Nothing of the user's is removed to make room: a conflict is an error that names itself.
install() { # apt-get's arguments
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        --no-remove -o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1 </dev/null
}
# QEMU is one version throughout: where a part of it is from backports already, Debian's own does not
# fit beside it. The backports are read into a directory of ours; the machine's sources stay as they are.
install_beside_backports() {
    local suite mirror lists=$target/backports private
    [[ " ${packages[*]} " == *" qemu-system-x86 "* ]] || return 1
    [[ $(dpkg-query -W -f '${Version}' qemu-utils 2>/dev/null) == *~bpo* ]] || return 1
    suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)-backports
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: ${suite%-backports}" | head -n 1)
    say "QEMU is from $suite on this machine: the rest of it comes from there too"
    mkdir -p "$lists/state/partial"
    printf 'deb %s %s main\n' "$mirror" "${suite%-backports}" "$mirror" "$suite" >"$lists/sources.list"
    private=(-o "Dir::Etc::sourcelist=$lists/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$lists/state" -o APT::Sandbox::User=root)
    "${root[@]}" apt-get update "${private[@]}" >>"$log" 2>&1 </dev/null || return 1
    install "${private[@]}" -t "$suite" qemu-system-x86 || return 1
    install "${packages[@]}"
}
say "installing for '$*': ${packages[*]} (log: ${log#"$top"/})"
: >"$log"
# A new machine has the lists of its image: old versions, or none of the security updates.
[ -n "$(find "$target/packages.fresh" -mtime -1 2>/dev/null)" ] || refresh || true
if ! heartbeat "apt-get install" install "${packages[@]}"; then
    refresh || true
    if ! heartbeat "apt-get install" install "${packages[@]}" && ! heartbeat "apt-get install" install_beside_backports; then
        reason=$(grep -E '^(E:|.*but it is not|.*Conflicts)' "$log" | tail -n 1)
        die "apt-get could not install ${packages[*]}: ${reason:-see $log}"
    fi
fi
