// Attention to pages with bf16 dot products.
#include "backend/cpu/kernels/paged_attention.h"
#include "backend/cpu/kernels/pairs.h"

namespace moesaic::cpu::MOESAIC_ISA {

template <class A>
void paged_attention(const PagedHead<A>& head, Range queries, Range pages, const PagedSums& to,
                     float* scratch) {
  attend_pages<Pairs>(head, queries, pages, to, scratch);
}

template void paged_attention(const PagedHead<BFloat16>&, Range, Range, const PagedSums&, float*);

}  // namespace moesaic::cpu::MOESAIC_ISA
