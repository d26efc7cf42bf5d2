// Router of a token with logits l, over the regular experts R that are candidates:
//   s = softmax(l) over R, or sigmoid(l); of a spare: sigmoid(l - lse), with lse = logsumexp of l
//   over R, or sigmoid(l)
//   w = scale s of the chosen (divided by their sum if normalised); shares p = s / sum of s over R
// Backward, with the choice held constant: dw reaches s of the chosen, daux reaches p, and dz lse^2
// reaches l directly.
#include "backend/cpu/kernels/instruction_set_kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

constexpr float kTiny = 1e-20F;  // keeps a sum of scores that all underflow from dividing by zero
float never() { return -__builtin_inff(); }
constexpr std::int32_t kRegular = 1;  // as ExpertState
constexpr std::int32_t kSpare = 2;

// Lanes i .. i + 15 of the experts that are in this state; lanes past the end are in none.
I16 in_state(const std::int32_t* state, Index i, Index n, std::int32_t wanted) {
  std::int32_t lanes[kLanes] = {};
  std::memcpy(static_cast<void*>(lanes), state + i,
              static_cast<std::size_t>(smaller(kLanes, n - i)) * sizeof(std::int32_t));
  I16 v;
  std::memcpy(&v, lanes, sizeof v);
  return v == wanted;
}

F16 sigmoid(F16 x) { return 1.0F / (1.0F + exp(-x)); }

// Takes the largest of x out (the lowest index of equals): -1 if nothing is left, or not
// comparable.
Index take_best(float* x, Index n) {
  F16 best = splat(never());
  for (Index i = 0; i + kLanes <= n; i += kLanes) {
    best = max(best, load(x + i));
  }
  float top = max(best);
  for (Index e = n / kLanes * kLanes; e < n; ++e) {
    top = x[e] > top ? x[e] : top;
  }
  for (Index e = 0; e < n && top > never(); ++e) {
    if (x[e] == top) {
      x[e] = never();
      return e;
    }
  }
  return -1;
}

bool is_in(const std::int32_t* choice, Index k, Index e) {
  for (Index c = 0; c < k; ++c) {
    if (choice[c] == e) {
      return true;
    }
  }
  return false;
}

// For a token whose numbers are not finite: any expert will do, but it must be one.
Index first_free(const std::int32_t* state, Index n, const std::int32_t* choice, Index taken) {
  for (Index e = 0; e < n; ++e) {
    if (state[e] == kRegular && !is_in(choice, taken, e)) {
      return e;
    }
  }
  return -1;
}

// Leaves only the candidates of the largest logits over.
void keep_candidates(const RouteRow& row, const std::int32_t* state, float* logits,
                     float* scratch) {
  for (Index e = 0; e < row.experts; ++e) {
    scratch[e] = state[e] == kRegular ? logits[e] : never();
  }
  for (Index c = 0; c < row.candidates; ++c) {
    take_best(scratch, row.experts);
  }
  for (Index e = 0; e < row.experts; ++e) {
    logits[e] = scratch[e] > never() ? never() : logits[e];
  }
}

// The sum of a group's two best or its best, which is what the groups are ranked by.
float worth(const float* x, Index n, Index best) {
  float first = never();
  float second = never();
  for (Index e = 0; e < n; ++e) {
    second = x[e] > first ? first : (x[e] > second ? x[e] : second);
    first = x[e] > first ? x[e] : first;
  }
  return n == 1 || best == 1 ? first : first + second;
}

// Leaves only the experts of the top groups over. There are few groups: each is ranked by how many
// are better.
void keep_top_groups(const RouteRow& row, float* selection) {
  const Index size = row.experts / row.groups;
  Index kept[1024];  // a bound on the groups that config checks
  for (Index g = 0; g < row.groups; ++g) {
    const float own = worth(selection + g * size, size, row.group_best);
    Index better = 0;
    for (Index other = 0; other < row.groups; ++other) {
      const float value = worth(selection + other * size, size, row.group_best);
      better += value > own || (value == own && other < g) ? 1 : 0;
    }
    kept[g] = better < row.top_groups ? 1 : 0;
  }
  for (Index e = 0; e < size * row.groups; ++e) {
    selection[e] = kept[e / size] != 0 ? selection[e] : never();
  }
}

float log_sum_exp(const float* logits, const std::int32_t* state, Index n) {
  F16 best = splat(never());
  for (Index i = 0; i < n; i += kLanes) {
    const F16 l = load(logits + i, n - i);
    best = in_state(state, i, n, kRegular) ? max(l, best) : best;
  }
  const float top = max(best);
  F16 total{};
  for (Index i = 0; i < n; i += kLanes) {
    const F16 part = exp(load(logits + i, n - i) - top);
    total += in_state(state, i, n, kRegular) ? part : F16{};
  }
  return top + __builtin_logf(sum(total));
}

float regular_sum(const float* x, const std::int32_t* state, Index n) {
  F16 total{};
  for (Index i = 0; i < n; i += kLanes) {
    total += in_state(state, i, n, kRegular) ? load(x + i, n - i) : F16{};
  }
  return sum(total);
}

// Temperature, scores, and how willingly the token goes to each expert.
void score(const RouteRow& row, const RouteRows& r, float lse) {
  const Index n = row.experts;
  for (Index i = 0; i < n; i += kLanes) {
    const F16 l = load(r.logits + i, n - i);
    const I16 regular = in_state(r.state, i, n, kRegular);
    const I16 spare = in_state(r.state, i, n, kSpare);
    const F16 of_regular = row.sigmoid ? sigmoid(l) : exp(l - lse);
    const F16 of_spare = row.sigmoid ? sigmoid(l) : sigmoid(l - lse);
    F16 s = regular ? of_regular : F16{};
    s = spare ? of_spare : s;
    const F16 none = splat(never());
    const I16 possible = l > none || l != l;
    s = possible ? s : F16{};
    F16 willing = possible ? s + load(r.bias + i, n - i) : none;
    willing = regular ? willing : none;
    willing = spare ? l : willing;
    store(r.scores + i, s, n - i);
    store(r.selection + i, willing, n - i);
  }
}

// The token's choice; what it took is no longer in `selection`, and what was only out of bounds for
// the choice (spares) is back in it.
void choose(const RouteRow& row, const RouteRows& r, float total) {
  const Index n = row.experts;
  if (row.top_groups < row.groups) {
    keep_top_groups(row, r.selection);
  }
  float reached = 0.0F;
  for (Index c = 0; c < row.top_k; ++c) {
    r.choice[c] = -1;
    if (c > 0 && row.threshold > 0.0F && reached >= row.threshold * total) {
      continue;
    }
    Index e = take_best(r.selection, n);
    e = e < 0 ? first_free(r.state, n, r.choice, c) : e;
    if (e >= 0) {
      r.choice[c] = static_cast<std::int32_t>(e);
      reached += r.scores[e];
    }
  }
}

void add_statistics(const RouteRow& row, const RouteRows& r, float lse, float total) {
  const float inverse = 1.0F / (total + kTiny);
  double* shares = r.shares + (r.segment != nullptr ? *r.segment : 0) * row.experts;
  double entropy = 0.0;
  for (Index e = 0; e < row.experts; ++e) {
    const double p = r.state[e] == kRegular ? static_cast<double>(r.scores[e] * inverse) : 0.0;
    shares[e] += p;
    entropy -= p > 0.0 ? p * __builtin_log(p) : 0.0;
  }
  r.sums[0] += static_cast<double>(lse) * static_cast<double>(lse);
  r.sums[1] += entropy;
}

// What weights are made from: scale, or scale over the sum of the chosen scores.
float weight_factor(const RouteRow& row, const float* scores, const std::int32_t* choice) {
  float chosen = 0.0F;
  for (Index c = 0; c < row.top_k; ++c) {
    chosen += choice[c] >= 0 ? scores[choice[c]] : 0.0F;
  }
  return row.normalize ? row.scale / (chosen + kTiny) : row.scale;
}

void route_token(const RouteRow& row, const RouteRows& r) {
  const Index n = row.experts;
  if (row.candidates > 0) {
    keep_candidates(row, r.state, r.logits, r.selection);
  }
  for (Index e = 0; e < n; ++e) {
    const float raw = r.state[e] == kRegular || r.state[e] == kSpare ? r.logits[e] : never();
    r.logits[e] = (raw + (r.added != nullptr ? r.added[e] : 0.0F)) / row.temperature;
  }
  const float lse = log_sum_exp(r.logits, r.state, n);
  score(row, r, lse);
  const float total = regular_sum(r.scores, r.state, n);
  add_statistics(row, r, lse, total);
  // Spares are no one's first choice: set aside while the token chooses.
  for (Index e = 0; e < n; ++e) {
    r.selection[e] = r.state[e] == kSpare ? never() : r.selection[e];
  }
  choose(row, r, total);
  for (Index e = 0; e < n; ++e) {
    r.selection[e] = r.state[e] == kSpare ? r.logits[e] : r.selection[e];
  }
  route_weights(row, r.scores, r.choice, r.weight, 1);
}

// From the gradient of the scores, in dlogits, to that of the gate's logits.
void through_scores(const RouteRow& row, const RouteRows& r, float dz, float* dlogits) {
  const Index n = row.experts;
  const float lse = log_sum_exp(r.logits, r.state, n);
  float inner = 0.0F;
  float dlse = dz * 2.0F * lse;
  for (Index e = 0; e < n && !row.sigmoid; ++e) {
    const float part = dlogits[e] * r.scores[e];
    inner += r.state[e] == kRegular ? part : 0.0F;
    dlse -= r.state[e] == kSpare ? part * (1.0F - r.scores[e]) : 0.0F;
  }
  for (Index i = 0; i < n; i += kLanes) {
    const F16 s = load(r.scores + i, n - i);
    const F16 d = load(dlogits + i, n - i);
    const I16 regular = in_state(r.state, i, n, kRegular);
    const F16 own = d * s * (1.0F - s);
    F16 dl = row.sigmoid ? own : s * (d - inner);
    dl += dlse * exp(load(r.logits + i, n - i) - lse);
    store(dlogits + i, (regular ? dl : own) / row.temperature, n - i);
  }
}

void route_backward_token(const RouteRow& row, const RouteRows& r, const std::int32_t* choice,
                          const float* dweight, const float* daux, float dz, float* dlogits) {
  const Index n = row.experts;
  daux += (r.segment != nullptr ? *r.segment : 0) * n;
  // dlogits holds the gradient of the scores first.
  const float inverse = 1.0F / (regular_sum(r.scores, r.state, n) + kTiny);
  float mean = 0.0F;
  for (Index e = 0; e < n; ++e) {
    mean += r.state[e] == kRegular ? daux[e] * r.scores[e] * inverse : 0.0F;
  }
  for (Index e = 0; e < n; ++e) {
    dlogits[e] = r.state[e] == kRegular ? (daux[e] - mean) * inverse : 0.0F;
  }
  const float factor = weight_factor(row, r.scores, choice);
  float shift = 0.0F;
  for (Index c = 0; c < row.top_k && row.normalize; ++c) {
    shift += choice[c] >= 0 ? dweight[c] * r.scores[choice[c]] * factor / row.scale : 0.0F;
  }
  for (Index c = 0; c < row.top_k; ++c) {
    if (choice[c] >= 0) {
      dlogits[choice[c]] += (dweight[c] - shift) * factor;
    }
  }
  through_scores(row, r, dz, dlogits);
}

}  // namespace

void route(const RouteRow& row, const RouteRows& rows, Index tokens) {
  RouteRows r = rows;
  for (Index t = 0; t < tokens; ++t) {
    route_token(row, r);
    r.added = r.added != nullptr ? r.added + row.experts : nullptr;
    r.segment = r.segment != nullptr ? r.segment + 1 : nullptr;
    r.logits += row.experts;
    r.scores += row.experts;
    r.selection += row.experts;
    r.choice += row.top_k;
    r.weight += row.top_k;
  }
}

void route_weights(const RouteRow& row, const float* scores, const std::int32_t* choice,
                   float* weight, Index tokens) {
  for (Index t = 0; t < tokens;
       ++t, scores += row.experts, choice += row.top_k, weight += row.top_k) {
    const float factor = weight_factor(row, scores, choice);
    for (Index c = 0; c < row.top_k; ++c) {
      weight[c] = choice[c] >= 0 ? scores[choice[c]] * factor : 0.0F;
    }
  }
}

void route_backward(const RouteRow& row, const RouteRows& rows, const std::int32_t* choice,
                    const float* dweight, const float* daux, float dz, float* dlogits,
                    Index tokens) {
  RouteRows r = rows;
  for (Index t = 0; t < tokens;
       ++t, choice += row.top_k, dweight += row.top_k, dlogits += row.experts) {
    route_backward_token(row, r, choice, dweight, daux, dz, dlogits);
    r.segment = r.segment != nullptr ? r.segment + 1 : nullptr;
    r.logits += row.experts;
    r.scores += row.experts;
  }
}

}  // namespace moesaic::cpu::MOESAIC_ISA
