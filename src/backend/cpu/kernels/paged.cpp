#include "backend/cpu/kernels/attention_paged.h"

namespace moesaic::cpu::MOESAIC_ISA {

template <class A>
void paged_attention(const PagedHead<A>& head, Range queries, A* out, Index out_stride, float* lse,
                     Index lse_stride, float* scratch) {
  attend_pages<Fma>(head, queries, out, out_stride, lse, lse_stride, scratch);
}

template void paged_attention(const PagedHead<float>&, Range, float*, Index, float*, Index, float*);
template void paged_attention(const PagedHead<BFloat16>&, Range, BFloat16*, Index, float*, Index,
                              float*);

}  // namespace moesaic::cpu::MOESAIC_ISA
