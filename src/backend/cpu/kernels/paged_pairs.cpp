// Attention to pages of bf16 in pairs.
#include "backend/cpu/kernels/attention_paged.h"
#include "backend/cpu/kernels/pairs.h"

namespace moesaic::cpu::MOESAIC_ISA {

template <class A>
void paged_attention(const PagedHead<A>& head, Range queries, A* out, Index out_stride, float* lse,
                     Index lse_stride, float* scratch) {
  attend_pages<Pairs>(head, queries, out, out_stride, lse, lse_stride, scratch);
}

template void paged_attention(const PagedHead<BFloat16>&, Range, BFloat16*, Index, float*, Index,
                              float*);

}  // namespace moesaic::cpu::MOESAIC_ISA
