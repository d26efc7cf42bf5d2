#pragma once

#include <string_view>

#include "backend/cpu/kernels/kernels.h"

namespace moesaic::cpu {

/// The kernels of one instruction set.
struct InstructionSet : KernelSet {
  const PanelKernels* panels;
  std::string_view name;
  bool matrix_units = false;  // AMX for bf16, through oneDNN
  bool bf16_dot = false;      // dot products of bf16 are fast here
};

bool avx2_is_usable();                          // this processor has AVX2 and FMA
bool avx512_is_usable();                        // this processor has AVX-512
bool avx512_bf16_is_usable();                   // AVX512-BF16
bool avx512_bytes_are_usable();                 // AVX512-VNNI
InstructionSet portable_kernels();              // any processor that this program starts on
InstructionSet avx2_kernels();                  // call only where usable
InstructionSet avx512_kernels();                // call only where usable; without bytes
InstructionSet avx512_bf16_kernels();           // call only where usable
InstructionSet matrix_unit_kernels();           // the same; uses vectors where there are no units
InstructionSet with_bytes(InstructionSet set);  // adds sums of bytes with AVX512-VNNI, where usable
/// The fastest ones here. bf16 dot products only on AMD's processors: on Intel's they run at half
/// the rate of fp32 products.
InstructionSet best_kernels();

}  // namespace moesaic::cpu
