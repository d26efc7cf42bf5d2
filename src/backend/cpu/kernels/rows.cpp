// Whole rows. Bias: y += b, of the row's group.  Gate: y = x s(l) with the logistic function s of
// the row's logit l; backward, from y:  dl = (1 - s) sum(dy y),  dx = dy s, as y s'(l) / s = y (1 -
// s). Combine: rows of tokens that come back from their experts, weighted and summed.
#include "backend/cpu/kernels/instruction_set_kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

float logistic(float x) { return 1.0F / (1.0F + exp(-x)); }

}  // namespace

template <class A>
void add_bias(A* y, const float* bias, Index rows, Index dim) {
  for (Index t = 0; t < rows; ++t, y += dim) {
    for (Index i = 0; i < dim; i += kLanes) {
      store(y + i, load(y + i, dim - i) + load(bias + i, dim - i), dim - i);
    }
  }
}
template void add_bias(float*, const float*, Index, Index);
template void add_bias(BFloat16*, const float*, Index, Index);

template <class A>
void bias_backward(const A* dy, Index row, float* dbias, Index rows, Index dim) {
  for (Index i = 0; i < dim; i += kLanes) {
    const Index n = dim - i;
    F16 total{};
    for (Index t = 0; t < rows; ++t) {
      total += load(dy + t * row + i, n);
    }
    store(dbias + i, load(dbias + i, n) + total, n);
  }
}
template void bias_backward(const float*, Index, float*, Index, Index);
template void bias_backward(const BFloat16*, Index, float*, Index, Index);

template <class A>
void gate_rows(A* x, const float* logit, Index rows, Index dim) {
  for (Index t = 0; t < rows; ++t, x += dim) {
    const float s = logistic(logit[t]);
    for (Index i = 0; i < dim; i += kLanes) {
      store(x + i, load(x + i, dim - i) * s, dim - i);
    }
  }
}
template void gate_rows(float*, const float*, Index, Index);
template void gate_rows(BFloat16*, const float*, Index, Index);

template <class A>
void gate_rows_backward(A* dy, const A* y, const float* logit, float* dlogit, Index rows,
                        Index dim) {
  for (Index t = 0; t < rows; ++t, dy += dim, y += dim) {
    const float s = logistic(logit[t]);
    F16 dot{};
    for (Index i = 0; i < dim; i += kLanes) {
      const F16 d = load(dy + i, dim - i);
      dot += d * load(y + i, dim - i);
      store(dy + i, d * s, dim - i);
    }
    dlogit[t] = (1.0F - s) * sum(dot);
  }
}
template void gate_rows_backward(float*, const float*, const float*, float*, Index, Index);
template void gate_rows_backward(BFloat16*, const BFloat16*, const float*, float*, Index, Index);

template <class A, class B>
void copy_groups(const A* from, const Groups& source, B* to, const Groups& target, bool add,
                 Index rows) {
  for (Index t = 0; t < rows; ++t, from += source.row, to += target.row) {
    for (Index g = 0; g < source.groups; ++g) {
      const A* const in = from + source.first + g * source.stride;
      B* const out = to + target.first + g * target.stride;
      for (Index i = 0; i < source.width; i += kLanes) {
        const Index n = source.width - i;
        const F16 v = load(in + i, n);
        store(out + i, add ? v + load(out + i, n) : v, n);
      }
    }
  }
}
template void copy_groups(const float*, const Groups&, float*, const Groups&, bool, Index);
template void copy_groups(const float*, const Groups&, BFloat16*, const Groups&, bool, Index);
template void copy_groups(const BFloat16*, const Groups&, float*, const Groups&, bool, Index);
template void copy_groups(const BFloat16*, const Groups&, BFloat16*, const Groups&, bool, Index);

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
