// Attention with bf16 dot products, forward.
#include "backend/cpu/kernels/attention_forward.h"
#include "backend/cpu/kernels/pairs.h"

namespace moesaic::cpu::MOESAIC_ISA {

template <class A>
void attention(const AttentionHead<A>& head, Index begin, Index end, A* out, Index out_stride,
               float* lse, Index lse_stride, float* scratch) {
  attend<Pairs>(head, begin, end, out, out_stride, lse, lse_stride, scratch);
}

template void attention(const AttentionHead<BFloat16>&, Index, Index, BFloat16*, Index, float*,
                        Index, float*);

}  // namespace moesaic::cpu::MOESAIC_ISA
