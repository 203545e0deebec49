#!/usr/bin/env bash
# Builds the floor program to OUT: build.sh OUT
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 OUT" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
command -v "${CC:-gcc}" >/dev/null || { echo "$0: no C compiler (apt-get install gcc)" >&2; exit 1; }
[ -z "$(find "$here" -type f -newer "$1" -print -quit 2>&1)" ] && exit 0
mkdir -p "$(dirname "$1")"
"${CC:-gcc}" -std=gnu11 -O2 -Wall -Wextra -Werror -ffreestanding -fno-stack-protector -fno-pic -no-pie \
    -fno-tree-loop-distribute-patterns -fno-asynchronous-unwind-tables -fcf-protection=none \
    -static -nostdlib -nostartfiles -Wl,--build-id=none -Wl,-z,noseparate-code -Wl,-z,norelro -s \
    -o "$1" "$here/floor.c" "$here/container.c"
