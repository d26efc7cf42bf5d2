#include "backend/cpu/instruction_set.h"

namespace moesaic::cpu {

bool avx512_is_usable() {
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0;
}

InstructionSet avx2_kernels() {
  return {"avx2", &avx2::kernels_f32(), &avx2::kernels_bf16(), &avx2::kernels_common()};
}

InstructionSet avx512_kernels() {
  return {"avx512", &avx512::kernels_f32(), &avx512::kernels_bf16(), &avx512::kernels_common()};
}

InstructionSet best_kernels() { return avx512_is_usable() ? avx512_kernels() : avx2_kernels(); }

}  // namespace moesaic::cpu
