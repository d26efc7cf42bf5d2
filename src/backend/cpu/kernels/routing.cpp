// Router of a token with logits l: scores s = softmax(l) or 1 / (1 + exp(-l)); the K experts of the
// largest s + b are chosen; w = scale s (divided by the sum of the chosen s if normalised).
// Backward, with the choice held constant: dw reaches s of the chosen; daux reaches the normalised
// scores s / sum(s) of all experts; dz logsumexp(l)^2 reaches l directly.
#include "backend/cpu/kernels/families.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

constexpr float kTiny = 1e-20F;  // keeps a sum of scores that all underflow from dividing by zero

float log_sum_exp(const float* x, Index n) {
  float top = x[0];
  for (Index e = 1; e < n; ++e) {
    top = x[e] > top ? x[e] : top;
  }
  float total = 0.0F;
  for (Index e = 0; e < n; ++e) {
    total += __builtin_expf(x[e] - top);
  }
  return top + __builtin_logf(total);
}

float plain_sum(const float* x, Index n) {
  float total = 0.0F;
  for (Index e = 0; e < n; ++e) {
    total += x[e];
  }
  return total;
}

// The k largest scores + bias, best first; k passes, as k is small.
void choose(const float* scores, const float* bias, Index experts, Index k, std::int32_t* choice) {
  for (Index c = 0; c < k; ++c) {
    Index best = -1;
    float best_value = 0.0F;
    for (Index e = 0; e < experts; ++e) {
      bool taken = false;
      for (Index earlier = 0; earlier < c; ++earlier) {
        taken = taken || choice[earlier] == e;
      }
      const float value = scores[e] + bias[e];
      if (!taken && (best < 0 || value > best_value)) {
        best = e;
        best_value = value;
      }
    }
    choice[c] = static_cast<std::int32_t>(best);
  }
}

}  // namespace

void route(const RouteRow& row, const float* logits, const float* bias, float* scores,
           std::int32_t* choice, float* weight, double* stats, Index tokens) {
  const Index n = row.experts;
  for (Index t = 0; t < tokens;
       ++t, logits += n, scores += n, choice += row.top_k, weight += row.top_k) {
    const float lse = log_sum_exp(logits, n);
    for (Index e = 0; e < n; ++e) {
      scores[e] = row.sigmoid ? 1.0F / (1.0F + __builtin_expf(-logits[e]))
                              : __builtin_expf(logits[e] - lse);
    }
    choose(scores, bias, n, row.top_k, choice);
    float chosen = 0.0F;
    for (Index c = 0; c < row.top_k; ++c) {
      chosen += scores[choice[c]];
    }
    const float factor = row.normalize ? row.scale / (chosen + kTiny) : row.scale;
    for (Index c = 0; c < row.top_k; ++c) {
      weight[c] = scores[choice[c]] * factor;
    }
    const float inverse = 1.0F / (plain_sum(scores, n) + kTiny);
    double entropy = 0.0;
    for (Index e = 0; e < n; ++e) {
      const double p = static_cast<double>(scores[e] * inverse);
      stats[e] += p;
      entropy -= p > 0.0 ? p * __builtin_log(p) : 0.0;
    }
    stats[n] += static_cast<double>(lse) * static_cast<double>(lse);
    stats[n + 1] += entropy;
  }
}

void route_backward(const RouteRow& row, const float* dweight, const float* logits,
                    const float* scores, const std::int32_t* choice, const float* daux, float dz,
                    float* dlogits, Index tokens) {
  const Index n = row.experts;
  for (Index t = 0; t < tokens;
       ++t, logits += n, scores += n, dlogits += n, choice += row.top_k, dweight += row.top_k) {
    // dlogits holds the gradient of the scores first.
    const float inverse = 1.0F / (plain_sum(scores, n) + kTiny);
    float mean = 0.0F;
    for (Index e = 0; e < n; ++e) {
      mean += daux[e] * scores[e] * inverse;
    }
    for (Index e = 0; e < n; ++e) {
      dlogits[e] = (daux[e] - mean) * inverse;
    }
    float chosen = 0.0F;
    float dot = 0.0F;
    for (Index c = 0; c < row.top_k; ++c) {
      chosen += scores[choice[c]];
      dot += dweight[c] * scores[choice[c]];
    }
    const float factor = row.normalize ? row.scale / (chosen + kTiny) : row.scale;
    const float shift = row.normalize ? dot / (chosen + kTiny) : 0.0F;
    for (Index c = 0; c < row.top_k; ++c) {
      dlogits[choice[c]] += (dweight[c] - shift) * factor;
    }
    float inner = 0.0F;
    for (Index e = 0; e < n; ++e) {
      inner += dlogits[e] * scores[e];
    }
    const float lse = log_sum_exp(logits, n);
    for (Index e = 0; e < n; ++e) {
      const float ds = row.sigmoid ? dlogits[e] * scores[e] * (1.0F - scores[e])
                                   : scores[e] * (dlogits[e] - inner);
      dlogits[e] = ds + dz * 2.0F * lse * __builtin_expf(logits[e] - lse);
    }
  }
}

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
