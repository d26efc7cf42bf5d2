#include "backend/cpu/kernels/instruction_set_kernels.h"

namespace moesaic::cpu::MOESAIC_ISA {

void replace_products(Kernels<BFloat16>& kernels) {
  kernels.gemm = gemm<BFloat16, BFloat16>;
  kernels.gemm_to_f32 = gemm<BFloat16, float>;
  kernels.attention = attention<BFloat16>;
  kernels.attention_backward = attention_backward<BFloat16>;
  kernels.paged_attention = paged_attention<BFloat16>;
}

}  // namespace moesaic::cpu::MOESAIC_ISA
