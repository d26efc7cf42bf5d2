#include "backend/cpu/instruction_set.h"

#include "backend/cpu/onednn.h"

namespace moesaic::cpu {

InstructionSet portable_kernels() { return {portable::kernels(), &portable::panels(), "portable"}; }

#ifdef __x86_64__

bool avx2_is_usable() {
  return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
}

bool avx512_is_usable() {
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0;
}

bool avx512_bf16_is_usable() {
  return avx512_is_usable() && __builtin_cpu_supports("avx512bf16") != 0;
}

bool avx512_bytes_are_usable() {
  return avx512_is_usable() && __builtin_cpu_supports("avx512vnni") != 0;
}

InstructionSet avx2_kernels() { return {avx2::kernels(), &avx2::panels(), "avx2"}; }

InstructionSet avx512_kernels() { return {avx512::kernels(), &avx2::panels(), "avx512"}; }

InstructionSet avx512_bf16_kernels() {
  static const Kernels<BFloat16> dot = [] {
    Kernels<BFloat16> kernels = *avx512::kernels().bf16;
    avx512bf16::replace_products(kernels);
    return kernels;
  }();
  InstructionSet set = avx512_kernels();
  set.name = "avx512 with bf16 dot products";
  set.bf16_dot = true;
  set.bf16 = &dot;
  set.packed_bf16 = &avx512bf16::packed_bf16();
  return set;
}

InstructionSet matrix_unit_kernels() {
  InstructionSet set = avx512_kernels();
  set.name = "avx512 with matrix units";
  set.matrix_units = true;
  return set;
}

InstructionSet with_bytes(InstructionSet set) {
  set.packed_int8 = &avx512vnni::packed_int8();
  set.packed_int4 = &avx512vnni::packed_int4();
  return set;
}

InstructionSet best_kernels() {
  if (!avx512_is_usable()) {
    return avx2_is_usable() ? avx2_kernels() : portable_kernels();
  }
  InstructionSet set = avx512_kernels();
  if (matrix_units_are_usable()) {
    set = matrix_unit_kernels();
  } else if (avx512_bf16_is_usable() && __builtin_cpu_is("amd") != 0) {
    set = avx512_bf16_kernels();
  }
  return avx512_bytes_are_usable() ? with_bytes(set) : set;
}

#else

bool avx2_is_usable() { return false; }
bool avx512_is_usable() { return false; }
bool avx512_bf16_is_usable() { return false; }
bool avx512_bytes_are_usable() { return false; }
InstructionSet avx2_kernels() { return portable_kernels(); }
InstructionSet avx512_kernels() { return portable_kernels(); }
InstructionSet avx512_bf16_kernels() { return portable_kernels(); }
InstructionSet matrix_unit_kernels() { return portable_kernels(); }
InstructionSet with_bytes(InstructionSet set) { return set; }
InstructionSet best_kernels() { return portable_kernels(); }

#endif

}  // namespace moesaic::cpu
