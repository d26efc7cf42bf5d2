// Rows of tokens that come back from their experts, weighted and summed.
#include "backend/cpu/kernels/families.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {
template <class A>
void combine(const A* rows, const std::int32_t* position, const float* weight, float* y,
             Index tokens, Index k, Index dim) {
  for (Index t = 0; t < tokens; ++t, position += k, y += dim) {
    for (Index i = 0; i < dim; i += kLanes) {
      F16 total{};
      for (Index c = 0; c < k; ++c) {
        if (position[c] >= 0) {
          const F16 row = load(rows + position[c] * dim + i, dim - i);
          total += weight == nullptr ? row : row * weight[t * k + c];
        }
      }
      store(y + i, total, dim - i);
    }
  }
}
template void combine(const float*, const std::int32_t*, const float*, float*, Index, Index, Index);
template void combine(const BFloat16*, const std::int32_t*, const float*, float*, Index, Index,
                      Index);

template <class A>
void combine_backward(const float* dy, const A* rows, const std::int32_t* position,
                      const float* weight, A* drows, float* dweight, Index tokens, Index k,
                      Index dim) {
  for (Index t = 0; t < tokens; ++t, dy += dim, position += k, weight += k, dweight += k) {
    for (Index c = 0; c < k; ++c) {
      dweight[c] = 0.0F;
      if (position[c] < 0) {
        continue;
      }
      const A* row = rows + position[c] * dim;
      A* drow = drows + position[c] * dim;
      F16 dot{};
      for (Index i = 0; i < dim; i += kLanes) {
        const F16 d = load(dy + i, dim - i);
        dot += d * load(row + i, dim - i);
        store(drow + i, d * weight[c], dim - i);
      }
      dweight[c] = sum(dot);
    }
  }
}
template void combine_backward(const float*, const float*, const std::int32_t*, const float*,
                               float*, float*, Index, Index, Index);
template void combine_backward(const float*, const BFloat16*, const std::int32_t*, const float*,
                               BFloat16*, float*, Index, Index, Index);

}  // namespace moesaic::cpu::MOESAIC_ISA
