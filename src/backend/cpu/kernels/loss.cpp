// Cross-entropy of a row: log p = x_target - logsumexp(x),  dx = weight (softmax(x) - one-hot).
#include "backend/cpu/kernels/instruction_set_kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

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

}  // namespace

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
                            const float* weight, A* dlogits, float* spread, Index rows,
                            Index vocab) {
  constexpr float kLeast = -200.0F;  // exp of it is 0 in fp32; a logit of -inf adds 0 to the spread
  const Index whole = vocab / kLanes * kLanes;
  for (Index r = 0; r < rows; ++r, logits += vocab, dlogits += vocab, stats += 3) {
    spread[r] = 0.0F;
    if (target[r] < 0) {
      for (Index i = 0; i < vocab; i += kLanes) {
        store(dlogits + i, F16{}, vocab - i);
      }
      continue;
    }
    const bool here = target[r] < vocab;
    const float own = here ? logits[target[r]] : 0.0F;  // dlogits may be the same memory
    const float factor = weight[r] / stats[1];
    F16 sums{};
    for (Index i = 0; i < whole; i += kLanes) {
      const F16 below = load(logits + i) - stats[0];
      const F16 e = exp(below);
      sums += e * max(below, splat(kLeast));
      store(dlogits + i, e * factor);
    }
    spread[r] = sum(sums);
    if (whole < vocab) {
      const F16 below = load(logits + whole, vocab - whole) - stats[0];
      const F16 e = exp(below);
      const F16 terms = e * max(below, splat(kLeast));
      for (Index lane = 0; lane < vocab - whole; ++lane) {
        spread[r] += terms[lane];
      }
      store(dlogits + whole, e * factor, vocab - whole);
    }
    if (here) {
      const float p = exp(own - stats[0]) / stats[1];
      dlogits[target[r]] = static_cast<A>(weight[r] * (p - 1.0F));
    }
  }
}
template void cross_entropy_backward(const float*, const std::int32_t*, const float*, const float*,
                                     float*, float*, Index, Index);
template void cross_entropy_backward(const float*, const std::int32_t*, const float*, const float*,
                                     BFloat16*, float*, Index, Index);

}  // namespace moesaic::cpu::MOESAIC_ISA
