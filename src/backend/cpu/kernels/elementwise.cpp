// SwiGLU: y = g s(g) u with s the logistic function;
//   dg = dy u s(g) (1 + g (1 - s(g))),  du = dy g s(g).
// Clamped, as gpt-oss has it: with g and u clamped to limits, y = (u + 1) g s(1.702 g).
// Cross-entropy of a row: log p = x_target - logsumexp(x),  dx = scale (softmax(x) - one-hot).
// AdamW: m = b1 m + (1-b1) g,  v = b2 v + (1-b2) g^2,
//   p = p (1 - lr wd) - lr (m / c1) / (sqrt(v / c2) + eps).
#include "backend/cpu/kernels/families.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

F16 logistic(F16 x) { return 1.0F / (1.0F + exp(-x)); }

F16 sqrt(F16 x) {
  for (Index i = 0; i < kLanes; ++i) {
    x[i] = __builtin_sqrtf(x[i]);
  }
  return x;
}

struct RowStats {
  float top, total;  // the largest, and the sum of exp(x - top)
  Index best;
};

// The first n lanes, the others -inf.
F16 load_or_least(const float* x, Index n) {
  if (n >= kLanes) {
    return load(x);
  }
  F16 v = splat(-__builtin_inff());
  for (Index i = 0; i < n; ++i) {
    v[i] = x[i];
  }
  return v;
}

constexpr Index kSoftmaxBlock = 32 * kLanes;

// The largest of n numbers; n is at most kSoftmaxBlock.
float largest(const float* x, Index n) {
  F16 best[2] = {splat(-__builtin_inff()), splat(-__builtin_inff())};
  Index i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    best[0] = max(load(x + i), best[0]);
    best[1] = max(load(x + i + kLanes), best[1]);
  }
  for (; i < n; i += kLanes) {
    best[0] = max(load_or_least(x + i, n - i), best[0]);
  }
  return max(max(best[0], best[1]));
}

// Sum of exp(x - top) over n numbers; prefetches the next block.
float sum_exp(const float* x, float top, Index n) {
  F16 total{};
  for (Index i = 0; i < n; i += kLanes) {
    __builtin_prefetch(x + i + kSoftmaxBlock);
    total += exp(load_or_least(x + i, n - i) - top);
  }
  return sum(total);
}

// The online softmax of Milakov & Gimelshein 2018, by blocks. The least place of the largest is
// looked for in the block alone that holds it.
RowStats stats_of(const float* x, Index n) {
  RowStats row{-__builtin_inff(), 0.0F, 0};
  for (Index begin = 0; begin < n; begin += kSoftmaxBlock) {
    const Index count = smaller(kSoftmaxBlock, n - begin);
    const float top = largest(x + begin, count);
    if (top > row.top) {
      row = {top, row.total * exp(row.top - top), begin};
    }
    const bool least = row.top == -__builtin_inff();  // each is -inf or NaN so far
    row.total += sum_exp(x + begin, least ? 0.0F : row.top, count);
  }
  while (row.best + 1 < n && x[row.best] != row.top) {
    ++row.best;
  }
  return row;
}

struct GateUp {
  F16 gate, up;
};

struct PlainGate {
  F16 forward(F16 gate, F16 up) const { return gate * logistic(gate) * up; }
  GateUp backward(F16 d, F16 gate, F16 up) const {
    const F16 s = logistic(gate);
    return {d * up * s * (1.0F + gate * (1.0F - s)), d * gate * s};
  }
};

struct ClampedGate {
  static constexpr float kSlope = 1.702F;

  F16 forward(F16 gate, F16 up) const {
    const F16 g = below(gate);
    return g * logistic(g * kSlope) * (-below(-below(up)) + 1.0F);
  }
  GateUp backward(F16 d, F16 gate, F16 up) const {
    const F16 g = below(gate);
    const F16 u = -below(-below(up));
    const F16 s = logistic(g * kSlope);
    const F16 dgate = d * (u + 1.0F) * s * (1.0F + g * kSlope * (1.0F - s));
    return {gate > g ? F16{} : dgate, u != up ? F16{} : d * g * s};
  }
  F16 below(F16 x) const { return x > splat(limit) ? splat(limit) : x; }

  float limit;
};

template <class Gate, class A>
void gate(const Gate& kind, const A* gate_up, A* y, Index rows, Index hidden) {
  for (Index r = 0; r < rows; ++r, gate_up += 2 * hidden, y += hidden) {
    const A* const up = gate_up + hidden;
    Index i = 0;
    for (; i + 2 * kLanes <= hidden; i += 2 * kLanes) {
      const Pair g = load_pair(gate_up + i);
      const Pair u = load_pair(up + i);
      store_pair(y + i, {kind.forward(g.first, u.first), kind.forward(g.second, u.second)});
    }
    for (; i < hidden; i += kLanes) {
      const Index n = hidden - i;
      store(y + i, kind.forward(load(gate_up + i, n), load(up + i, n)), n);
    }
  }
}

template <class Gate, class A>
void gate_backward(const Gate& kind, const A* dy, const A* gate_up, A* dgate_up, Index rows,
                   Index hidden) {
  for (Index r = 0; r < rows; ++r, gate_up += 2 * hidden, dgate_up += 2 * hidden, dy += hidden) {
    const A* const up = gate_up + hidden;
    A* const dup = dgate_up + hidden;
    Index i = 0;
    for (; i + 2 * kLanes <= hidden; i += 2 * kLanes) {
      const Pair d = load_pair(dy + i);
      const Pair g = load_pair(gate_up + i);
      const Pair u = load_pair(up + i);
      const GateUp first = kind.backward(d.first, g.first, u.first);
      const GateUp second = kind.backward(d.second, g.second, u.second);
      store_pair(dgate_up + i, {first.gate, second.gate});
      store_pair(dup + i, {first.up, second.up});
    }
    for (; i < hidden; i += kLanes) {
      const Index n = hidden - i;
      const GateUp v = kind.backward(load(dy + i, n), load(gate_up + i, n), load(up + i, n));
      store(dgate_up + i, v.gate, n);
      store(dup + i, v.up, n);
    }
  }
}

}  // namespace

template <class A>
void from_float(const float* x, A* y, Index n) {
  for (Index i = 0; i < n; i += kLanes) {
    store(y + i, load(x + i, n - i), n - i);
  }
}
template void from_float(const float*, float*, Index);
template void from_float(const float*, BFloat16*, Index);

template <class A>
void to_float(const A* x, float* y, Index n) {
  for (Index i = 0; i < n; i += kLanes) {
    store(y + i, load(x + i, n - i), n - i);
  }
}
template void to_float(const float*, float*, Index);
template void to_float(const BFloat16*, float*, Index);

void add(const float* x, float* inout, Index n) {
  for (Index i = 0; i < n; i += kLanes) {
    store(inout + i, load(inout + i, n - i) + load(x + i, n - i), n - i);
  }
}

double sum_of_squares(const float* x, Index n) {
  using D8 = double __attribute__((vector_size(64)));
  using F8 = float __attribute__((vector_size(32)));
  D8 total{};
  Index i = 0;
  for (; i + 8 <= n; i += 8) {
    F8 v;
    std::memcpy(&v, x + i, sizeof v);
    const D8 d = __builtin_convertvector(v, D8);
    total += d * d;
  }
  double result = 0.0;
  for (Index lane = 0; lane < 8; ++lane) {
    result += total[lane];
  }
  for (; i < n; ++i) {
    result += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  return result;
}

template <class A>
void swiglu(const A* gate_up, float limit, A* y, Index rows, Index hidden) {
  if (limit > 0.0F) {
    gate(ClampedGate{limit}, gate_up, y, rows, hidden);
  } else {
    gate(PlainGate{}, gate_up, y, rows, hidden);
  }
}
template void swiglu(const float*, float, float*, Index, Index);
template void swiglu(const BFloat16*, float, BFloat16*, Index, Index);

template <class A>
void swiglu_backward(const A* dy, const A* gate_up, float limit, A* dgate_up, Index rows,
                     Index hidden) {
  if (limit > 0.0F) {
    gate_backward(ClampedGate{limit}, dy, gate_up, dgate_up, rows, hidden);
  } else {
    gate_backward(PlainGate{}, dy, gate_up, dgate_up, rows, hidden);
  }
}
template void swiglu_backward(const float*, const float*, float, float*, Index, Index);
template void swiglu_backward(const BFloat16*, const BFloat16*, float, BFloat16*, Index, Index);

void softmax_stats(const float* logits, const std::int32_t* target, float* stats,
                   std::int32_t* best, Index rows, Index vocab) {
  for (Index r = 0; r < rows; ++r, logits += vocab, stats += 3) {
    const RowStats row = stats_of(logits, vocab);
    best[r] = static_cast<std::int32_t>(row.best);
    stats[0] = row.top;
    stats[1] = row.total;
    stats[2] = target[r] >= 0 && target[r] < vocab ? logits[target[r]] : 0.0F;
  }
}

// exp(d) - 1 - d where |d| < 1/2, from its series: to 1e-7 of it.
inline F16 second_order(F16 d) {
  constexpr float kTerms[] = {1.0F / 40320, 1.0F / 5040, 1.0F / 720, 1.0F / 120,
                              1.0F / 24,    1.0F / 6,    1.0F / 2};
  F16 series{};
  for (const float term : kTerms) {
    series = series * d + term;
  }
  return series * d * d;
}

// The terms of the divergence of neighbours: where p and q are close their difference would be lost
// in the rounding of both.
inline F16 divergence_terms(F16 log_p, F16 log_q) {
  const F16 d = log_q - log_p;
  const F16 p = exp(log_p);
  const F16 far = exp(log_q) - p - p * d;
  const F16 size = d < F16{} ? -d : d;
  return size < splat(0.5F) ? p * second_order(d) : far;
}

void divergence(const float* reference, const float* logits, const float* log_sums,
                float* divergence, Index rows, Index vocab) {
  const Index whole = vocab / kLanes * kLanes;
  for (Index r = 0; r < rows; ++r, reference += vocab, logits += vocab, log_sums += 2) {
    F16 total{};
    for (Index i = 0; i < whole; i += kLanes) {
      total += divergence_terms(load(reference + i) - log_sums[0], load(logits + i) - log_sums[1]);
    }
    const Index rest = vocab - whole;
    if (rest > 0) {
      float lanes[kLanes] = {};
      store(lanes,
            divergence_terms(load(reference + whole, rest) - log_sums[0],
                             load(logits + whole, rest) - log_sums[1]),
            rest);
      total += load(lanes);
    }
    divergence[r] = sum(total);
  }
}

template <class A>
void cross_entropy_backward(const float* logits, const std::int32_t* target, const float* stats,
                            float scale, A* dlogits, Index rows, Index vocab) {
  for (Index r = 0; r < rows; ++r, logits += vocab, dlogits += vocab, stats += 3) {
    if (target[r] < 0) {
      for (Index i = 0; i < vocab; i += kLanes) {
        store(dlogits + i, F16{}, vocab - i);
      }
      continue;
    }
    const bool here = target[r] < vocab;
    const float own = here ? logits[target[r]] : 0.0F;  // dlogits may be the same memory
    const float factor = scale / stats[1];
    for (Index i = 0; i < vocab; i += kLanes) {
      store(dlogits + i, exp(load(logits + i, vocab - i) - stats[0]) * factor, vocab - i);
    }
    if (here) {
      const float p = exp(own - stats[0]) / stats[1];
      dlogits[target[r]] = static_cast<A>(scale * (p - 1.0F));
    }
  }
}
template void cross_entropy_backward(const float*, const std::int32_t*, const float*, float, float*,
                                     Index, Index);
template void cross_entropy_backward(const float*, const std::int32_t*, const float*, float,
                                     BFloat16*, Index, Index);

template <class A>
void adamw(const AdamWStep& step, const float* grad, float* value, float* exp_avg,
           float* exp_avg_sq, A* copy, Index n) {
  const float keep = 1.0F - step.lr * step.weight_decay;
  for (Index i = 0; i < n; i += kLanes) {
    const F16 g = load(grad + i, n - i) * step.grad_scale;
    const F16 m = load(exp_avg + i, n - i) * step.beta1 + g * (1.0F - step.beta1);
    const F16 v = load(exp_avg_sq + i, n - i) * step.beta2 + g * g * (1.0F - step.beta2);
    const F16 update = (m / step.correction1) / (sqrt(v / step.correction2) + step.eps);
    const F16 p = load(value + i, n - i) * keep - update * step.lr;
    store(exp_avg + i, m, n - i);
    store(exp_avg_sq + i, v, n - i);
    store(value + i, p, n - i);
    if (copy != nullptr) {
      store(copy + i, p, n - i);
    }
  }
}
template void adamw(const AdamWStep&, const float*, float*, float*, float*, float*, Index);
template void adamw(const AdamWStep&, const float*, float*, float*, float*, BFloat16*, Index);

}  // namespace moesaic::cpu::MOESAIC_ISA
