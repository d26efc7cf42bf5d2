// What scales or shifts whole rows.
// Bias: y += b, of the row's group.  Gate: y = x s(l) with the logistic function s of the row's
// logit l; backward, from y:  dl = (1 - s) sum(dy y),  dx = dy s, as y s'(l) / s = y (1 - s).
// Attention sink (Xiao et al. 2024, as gpt-oss has it): a key of logit z without a value joins the
// softmax:  lse' = log(exp(lse) + exp(z)),  out' = out exp(lse - lse');  with these, the backward
// pass of attention holds as it is, and dz -= sum over rows of exp(z - lse') dout . out'.
#include "backend/cpu/kernels/families.h"
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
