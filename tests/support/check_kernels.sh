#!/usr/bin/env bash
# Fails if an object compiled for AVX2 or AVX-512 defines a weak symbol outside the namespace of its
# instruction set: the linker could keep that copy for everybody, and the program would die on a
# processor without them. Fails, too, if products of bytes or bf16 dot products were compiled
# without the instructions for them. usage: check_kernels.sh [BUILD_FOLDER]
set -euo pipefail
cd "$(dirname "$0")/../.."

build=${1:-build/release}
mapfile -t objects < <(find "$build" -path '*kernels_avx*' -name '*.o')
if ((${#objects[@]} == 0)); then
  echo "check_kernels: no such objects in $build; build first" >&2
  exit 66
fi
weak=$(nm --print-file-name "${objects[@]}" | grep -E ' [WVu] ' |
  grep -vE ' _ZN7moesaic3cpu(4avx2|6avx512|10avx512bf16|10avx512vnni)' | c++filt || true)
if [[ -n $weak ]]; then
  printf 'check_kernels: weak symbols compiled for AVX:\n%s\n' "$weak" >&2
  exit 1
fi
# has_instruction OBJECT INSTRUCTION
has_instruction() {
  local object count
  object=$(find "$build" -path "*$1.cpp.o")
  if [[ ! -f $object ]]; then
    echo "check_kernels: not one object of $1.cpp: ${object:-none}" >&2
    exit 1
  fi
  count=$(objdump -d "$object" | grep -c "$2" || true)
  if ((count == 0)); then
    echo "check_kernels: $object has no $2" >&2
    exit 1
  fi
}
has_instruction kernels/packed_vnni vpdpbusd
has_instruction kernels/packed_pairs vdpbf16ps
has_instruction kernels/matmul_pairs vdpbf16ps
echo "check_kernels: ${#objects[@]} objects share nothing with other instruction sets"
