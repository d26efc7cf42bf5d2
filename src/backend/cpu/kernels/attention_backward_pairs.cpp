// Attention with bf16 dot products, backward.
#include "backend/cpu/kernels/attention_backward.h"
#include "backend/cpu/kernels/pairs.h"

namespace moesaic::cpu::MOESAIC_ISA {

template <class A>
void attention_backward(const AttentionHead<A>& head, const AttentionGradient<A>& gradient,
                        float* scratch) {
  attend_backward<Pairs>(head, gradient, scratch);
}

template void attention_backward(const AttentionHead<BFloat16>&, const AttentionGradient<BFloat16>&,
                                 float*);

}  // namespace moesaic::cpu::MOESAIC_ISA
