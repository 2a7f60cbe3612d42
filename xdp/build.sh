#!/usr/bin/env bash
# Compiles the program anew and commits to it: the object that a build without clang takes, and the hash of the sources it came from,
# which tests/xdp.rs checks. Needs clang and llvm-strip (Debian: apt install clang llvm; other names by CLANG and LLVM_STRIP).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
"${CLANG:-clang}" -O2 -g -Wall -Werror -target bpfel -c distributary.bpf.c -o distributary.bpf.o
# Debugging information goes; the maps' types (BTF) stay.
"${LLVM_STRIP:-llvm-strip}" --strip-debug distributary.bpf.o
cat distributary.bpf.c distributary.h | sha256sum | cut -d ' ' -f 1 >distributary.bpf.sha256
