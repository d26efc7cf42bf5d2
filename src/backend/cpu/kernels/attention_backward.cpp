#include "backend/cpu/kernels/attention_backward.h"

namespace moesaic::cpu::MOESAIC_ISA {

template <class A>
void attention_backward(const AttentionHead<A>& head, const AttentionGradient<A>& gradient,
                        float* scratch) {
  attend_backward<Fma>(head, gradient, scratch);
}

template void attention_backward(const AttentionHead<float>&, const AttentionGradient<float>&,
                                 float*);
template void attention_backward(const AttentionHead<BFloat16>&, const AttentionGradient<BFloat16>&,
                                 float*);

}  // namespace moesaic::cpu::MOESAIC_ISA
