// Attention sink (Xiao et al. 2024, as gpt-oss has it): a key of logit z without a value joins the
// softmax:  lse' = log(exp(lse) + exp(z)),  out' = out exp(lse - lse');  with these, the backward
// pass of attention holds as it is, and dz -= sum over rows of exp(z - lse') dout . out'.
#include "backend/cpu/kernels/instruction_set_kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {

template <class A>
void add_sinks(const float* sinks, A* out, float* lse, Index rows, Index heads, Index dim) {
  for (Index t = 0; t < rows; ++t) {
    for (Index h = 0; h < heads; ++h, out += dim, ++lse) {
      const float top = *lse > sinks[h] ? *lse : sinks[h];
      const float joined = top + __builtin_logf(exp(*lse - top) + exp(sinks[h] - top));
      const float factor = exp(*lse - joined);
      *lse = joined;
      for (Index i = 0; i < dim; i += kLanes) {
        store(out + i, load(out + i, dim - i) * factor, dim - i);
      }
    }
  }
}
template void add_sinks(const float*, float*, float*, Index, Index, Index);
template void add_sinks(const float*, BFloat16*, float*, Index, Index, Index);

template <class A>
void sinks_backward(const A* dout, const A* out, const float* lse, const float* sinks,
                    float* dsinks, Index rows, Index heads, Index dim) {
  for (Index t = 0; t < rows; ++t) {
    for (Index h = 0; h < heads; ++h, out += dim, dout += dim, ++lse) {
      F16 dot{};
      for (Index i = 0; i < dim; i += kLanes) {
        dot += load(dout + i, dim - i) * load(out + i, dim - i);
      }
      dsinks[h] -= exp(sinks[h] - *lse) * sum(dot);
    }
  }
}
template void sinks_backward(const float*, const float*, const float*, const float*, float*, Index,
                             Index, Index);
template void sinks_backward(const BFloat16*, const BFloat16*, const float*, const float*, float*,
                             Index, Index, Index);

}  // namespace moesaic::cpu::MOESAIC_ISA
