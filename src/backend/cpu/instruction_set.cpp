#include "backend/cpu/instruction_set.h"

#include "backend/cpu/onednn.h"

namespace moesaic::cpu {

bool avx512_is_usable() {
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0;
}

bool avx512_pairs_are_usable() {
  return avx512_is_usable() && __builtin_cpu_supports("avx512bf16") != 0;
}

InstructionSet avx2_kernels() {
  return {"avx2", &avx2::kernels_f32(), &avx2::kernels_bf16(), &avx2::kernels_common()};
}

InstructionSet avx512_kernels() {
  return {"avx512", &avx512::kernels_f32(), &avx512::kernels_bf16(), &avx512::kernels_common()};
}

InstructionSet avx512_pairs_kernels() {
  static const Kernels<BFloat16> pairs = [] {
    Kernels<BFloat16> kernels = avx512::kernels_bf16();
    avx512bf16::replace_products(kernels);
    return kernels;
  }();
  InstructionSet set = avx512_kernels();
  set.name = "avx512 with bf16 in pairs";
  set.bf16 = &pairs;
  return set;
}

InstructionSet matrix_unit_kernels() {
  InstructionSet set = avx512_kernels();
  set.name = "avx512 with matrix units";
  set.matrix_units = true;
  return set;
}

InstructionSet best_kernels() {
  if (!avx512_is_usable()) {
    return avx2_kernels();
  }
  if (matrix_units_are_usable()) {
    return matrix_unit_kernels();
  }
  const bool pairs_are_fast = avx512_pairs_are_usable() && __builtin_cpu_is("amd") != 0;
  return pairs_are_fast ? avx512_pairs_kernels() : avx512_kernels();
}

}  // namespace moesaic::cpu
