// Attention with bf16 dot products, forward.
#include "backend/cpu/kernels/attention_forward.h"
#include "backend/cpu/kernels/pairs.h"

namespace moesaic::cpu::MOESAIC_ISA {

template <class A>
void attention(const AttentionHead<A>& head, Range queries, const AttentionParts<A>& parts,
               float* scratch) {
  attend<Pairs>(head, queries, parts, scratch);
}

template void attention(const AttentionHead<BFloat16>&, Range, const AttentionParts<BFloat16>&,
                        float*);

}  // namespace moesaic::cpu::MOESAIC_ISA
