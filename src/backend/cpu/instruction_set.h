#pragma once

#include <string_view>

#include "backend/cpu/kernels/kernels.h"

namespace moesaic::cpu {

/// The kernels of one instruction set.
struct InstructionSet {
  std::string_view name;
  const Kernels<float>* f32;
  const Kernels<BFloat16>* bf16;
  const CommonKernels* common;
};

bool avx512_is_usable();          // on this processor
InstructionSet avx2_kernels();    // any processor that this program starts on
InstructionSet avx512_kernels();  // call only where usable
InstructionSet best_kernels();

}  // namespace moesaic::cpu
