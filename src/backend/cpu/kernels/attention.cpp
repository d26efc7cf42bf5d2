#include "backend/cpu/kernels/attention_forward.h"

namespace moesaic::cpu::MOESAIC_ISA {

template <class A>
void attention(const AttentionHead<A>& head, Range queries, const AttentionParts<A>& parts,
               float* scratch) {
  attend<Fma>(head, queries, parts, scratch);
}

template void attention(const AttentionHead<float>&, Range, const AttentionParts<float>&, float*);
template void attention(const AttentionHead<BFloat16>&, Range, const AttentionParts<BFloat16>&,
                        float*);

template <class A>
float finish_attention(float top, float total, const float* values, float scale, A* out,
                       Index v_dim) {
  return write_row(top, total, values, scale, out, v_dim);
}

template float finish_attention(float, float, const float*, float, float*, Index);
template float finish_attention(float, float, const float*, float, BFloat16*, Index);

}  // namespace moesaic::cpu::MOESAIC_ISA
