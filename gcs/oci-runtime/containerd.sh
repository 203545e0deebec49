#!/usr/bin/env bash
# Debian's containerd runs a container with oci-runtime: containerd.sh [PROGRAM]
# It gets a directory, a socket and a namespace of its own and is ended by its pid. Needs root, the
# packages containerd and busybox-static, and cgroup v1 or v2 mounted at /sys/fs/cgroup.
set -euo pipefail
program=$(realpath "${1:-target/debug/oci-runtime}")
[ -x "$program" ] || { echo "$0: there is no $program: cargo build -p oci-runtime" >&2; exit 1; }
for tool in containerd ctr busybox; do
    command -v "$tool" >/dev/null || { echo "SKIPPED: there is no $tool (.ci/packages.sh peers images)" >&2; exit 0; }
done
dir=$(mktemp -d)
containerd=
finish() {
    if [ -n "$containerd" ]; then
        kill "$containerd" || true
        wait "$containerd" || true
    fi
    rm -rf "$dir"
}
trap finish EXIT

mkdir -p "$dir"/rootfs/{bin,proc,sys,dev,etc,tmp}
cp "$(command -v busybox)" "$dir/rootfs/bin/busybox"
for applet in sh cat echo hostname grep sleep; do ln -s busybox "$dir/rootfs/bin/$applet"; done
cat >"$dir/config.toml" <<TOML
version = 2
root = "$dir/root"
state = "$dir/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$dir/containerd.sock"
TOML
containerd --config "$dir/config.toml" >"$dir/log" 2>&1 &
containerd=$!
ctr() { command ctr --address "$dir/containerd.sock" --namespace oci-runtime "$@"; }
for _ in $(seq 300); do
    ! ctr version >/dev/null 2>&1 || break
    kill -0 "$containerd" || { cat "$dir/log" >&2; exit 1; }
    sleep 0.1
done

expect() { # WANTED WHAT CODE TEXT
    [ "$1" = "$3 $4" ] || { echo "$0: $2: wanted '$1', got '$3 $4'" >&2; tail -20 "$dir/log" >&2; exit 1; }
    echo "ok: $2"
}
run() { ctr run --runtime io.containerd.runc.v2 --runc-binary "$program" --env PATH=/bin --rootfs "$@"; }

code=0
text=$(run --rm "$dir/rootfs" one sh -c 'echo hello; grep -c . /proc/self/mounts >/dev/null; exit 7') || code=$?
expect "7 hello" "a container's output and exit code" "$code" "$text"

run --detach "$dir/rootfs" two sleep 1000
code=0
text=$(ctr tasks exec --exec-id more two sh -c 'echo joined; exit 3') || code=$?
expect "3 joined" "a further process" "$code" "$text"
text=$(ctr tasks ls | grep -c RUNNING)
expect "0 1" "a container that runs in the background" 0 "$text"
ctr tasks kill --signal SIGKILL two
for _ in $(seq 300); do
    ctr tasks ls | grep -q STOPPED && break
    sleep 0.1
done
ctr tasks delete two >/dev/null 2>&1 || true
ctr containers delete two
text=$(ctr containers ls -q | grep -c . || true)
expect "0 0" "nothing is left" 0 "$text"
