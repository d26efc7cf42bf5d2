#!/usr/bin/env bash
# Compiles the portable kernels for aarch64. Nothing is run: no such processor is at hand.
set -euo pipefail
cd "$(dirname "$0")/../.."

compiler=aarch64-linux-gnu-g++
command -v $compiler >/dev/null || { echo "skipped: no $compiler (Debian: g++-aarch64-linux-gnu)"; exit 77; }
mapfile -t files < <(sed -n '/^set(all_kernels/,/)/p' src/backend/CMakeLists.txt | grep -o '[a-z_]*\.cpp')
[ ${#files[@]} -gt 10 ] || { echo "check_aarch64: no list all_kernels in src/backend/CMakeLists.txt" >&2; exit 1; }
printf 'src/backend/cpu/kernels/%s\0' "${files[@]}" quantized.cpp |
  xargs -0 -n 1 -P 2 $compiler -std=c++20 -O1 -Wall -Wextra -Werror -Wno-psabi -fopenmp -Isrc \
    -DMOESAIC_ISA=portable -DMOESAIC_TILE_ROWS=2 -DMOESAIC_TILE_VECTORS=1 -c -o /dev/null
$compiler -std=c++20 -O1 -Wall -Wextra -Werror -Isrc -c -o /dev/null src/backend/cpu/instruction_set.cpp
echo "check_aarch64: $((${#files[@]} + 2)) files compile"
