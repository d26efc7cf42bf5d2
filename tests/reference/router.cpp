#include "reference/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace moesaic::reference {
namespace {

constexpr double kTiny = 1e-20;  // keeps a token whose chosen scores are all 0 finite
constexpr double kNever = -std::numeric_limits<double>::infinity();

double dot(View a, View b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

double log_sum_exp(const Vector& logits, const RouterOptions& options) {
  double largest = kNever;
  for (std::int64_t e = 0; e < options.experts; ++e) {
    largest = options.is(e, Role::kRegular) ? std::max(largest, logits[e]) : largest;
  }
  double sum = 0.0;
  for (std::int64_t e = 0; e < options.experts; ++e) {
    sum += options.is(e, Role::kRegular) ? std::exp(logits[e] - largest) : 0.0;
  }
  return largest + std::log(sum);
}

// The indices of the `count` largest values, best first.
Indices largest(const Vector& values, std::int64_t count) {
  Indices order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return values[a] > values[b]; });
  order.resize(std::min<std::size_t>(order.size(), count));
  return order;
}

bool contains(const Indices& list, std::int64_t value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// A token's logits as its scores see them.
Vector final_logits(View raw, View added, const RouterOptions& options) {
  Vector regular(raw.begin(), raw.end());
  for (std::int64_t e = 0; e < options.experts; ++e) {
    regular[e] = options.is(e, Role::kRegular) ? raw[e] : kNever;
  }
  const Indices candidates =
      largest(regular, options.candidates > 0 ? options.candidates : options.experts);
  Vector out(raw.begin(), raw.end());
  for (std::int64_t e = 0; e < options.experts; ++e) {
    const bool possible =
        (options.is(e, Role::kRegular) && contains(candidates, e)) || options.is(e, Role::kSpare);
    out[e] = possible ? (raw[e] + (added.empty() ? 0.0 : added[e])) / options.temperature : kNever;
  }
  return out;
}

Vector score_row(const Vector& logits, const RouterOptions& options) {
  const double lse = log_sum_exp(logits, options);
  Vector out(logits.size(), 0.0);
  for (std::int64_t e = 0; e < options.experts; ++e) {
    if (logits[e] == kNever) {
      continue;
    }
    if (options.score == Score::kSigmoid) {
      out[e] = sigmoid(logits[e]);
    } else {
      out[e] = options.is(e, Role::kSpare) ? sigmoid(logits[e] - lse) : std::exp(logits[e] - lse);
    }
  }
  return out;
}

Vector shares_of(const Vector& scores, const RouterOptions& options) {
  Vector shares(scores.size(), 0.0);
  double total = 0.0;
  for (std::int64_t e = 0; e < options.experts; ++e) {
    total += options.is(e, Role::kRegular) ? scores[e] : 0.0;
  }
  for (std::int64_t e = 0; e < options.experts; ++e) {
    shares[e] = options.is(e, Role::kRegular) ? scores[e] / total : 0.0;
  }
  return shares;
}

// Score + bias of the regular candidates in the top groups.
Vector selection_row(const Vector& logits, const Vector& scores, View bias,
                     const RouterOptions& options) {
  Vector selection(scores.size(), kNever);
  for (std::int64_t e = 0; e < options.experts; ++e) {
    if (options.is(e, Role::kRegular) && logits[e] != kNever) {
      selection[e] = scores[e] + (bias.empty() ? 0.0 : bias[e]);
    }
  }
  if (options.top_groups < options.groups) {
    const std::int64_t size = options.experts / options.groups;
    Vector of_group;
    for (std::int64_t g = 0; g < options.groups; ++g) {
      const Vector own(selection.begin() + g * size, selection.begin() + (g + 1) * size);
      double sum = 0.0;
      for (const std::int64_t e : largest(own, 2)) {
        sum += own[e];
      }
      of_group.push_back(sum);
    }
    const Indices top = largest(of_group, options.top_groups);
    for (std::int64_t e = 0; e < options.experts; ++e) {
      selection[e] = contains(top, e / size) ? selection[e] : kNever;
    }
  }
  return selection;
}

Indices choice_row(const Vector& selection, const Vector& shares, const RouterOptions& options) {
  Indices choice = largest(selection, options.top_k);
  double reached = 0.0;
  for (std::int64_t& e : choice) {
    const bool enough =
        &e != choice.data() && options.threshold > 0.0 && reached >= options.threshold;
    reached += enough ? 0.0 : shares[e];
    e = enough ? -1 : e;
  }
  return choice;
}

}  // namespace

Vector weights_of(View scores, IndexView choice, const RouterOptions& options) {
  Vector weight;
  for (std::int64_t place = 0; place < std::ssize(choice); place += options.top_k) {
    const View row = scores.subspan(place / options.top_k * options.experts, options.experts);
    double sum = kTiny;
    for (std::int64_t k = 0; k < options.top_k; ++k) {
      sum += choice[place + k] >= 0 ? row[choice[place + k]] : 0.0;
    }
    for (std::int64_t k = 0; k < options.top_k; ++k) {
      const double own = choice[place + k] >= 0 ? row[choice[place + k]] : 0.0;
      weight.push_back(options.scale * own / (options.normalize ? sum : 1.0));
    }
  }
  return weight;
}

Routing route(View logits, View bias, const RouterOptions& options, View added, IndexView segment) {
  const std::int64_t experts = options.experts;
  const std::int64_t tokens = std::ssize(logits) / experts;
  const std::int64_t segments =
      segment.empty() ? 1 : *std::max_element(segment.begin(), segment.end()) + 1;
  Routing out;
  out.share_sums.assign(segments * experts, 0.0);
  for (std::int64_t t = 0; t < tokens; ++t) {
    const Vector own =
        final_logits(logits.subspan(t * experts, experts),
                     added.empty() ? added : added.subspan(t * experts, experts), options);
    const Vector scores = score_row(own, options);
    const Vector shares = shares_of(scores, options);
    Vector selection = selection_row(own, scores, bias, options);
    const Indices choice = choice_row(selection, shares, options);
    for (std::int64_t e = 0; e < experts; ++e) {
      selection[e] = options.is(e, Role::kSpare) ? own[e]
                     : contains(choice, e)       ? kNever
                                                 : selection[e];
      out.share_sums[(segment.empty() ? 0 : segment[t]) * experts + e] += shares[e];
      out.entropy_sum -= shares[e] > 0.0 ? shares[e] * std::log(shares[e]) : 0.0;
    }
    out.squared_lse_sum += std::pow(log_sum_exp(own, options), 2);
    out.logits.insert(out.logits.end(), own.begin(), own.end());
    out.scores.insert(out.scores.end(), scores.begin(), scores.end());
    out.selection.insert(out.selection.end(), selection.begin(), selection.end());
    out.choice.insert(out.choice.end(), choice.begin(), choice.end());
  }
  out.weight = weights_of(out.scores, out.choice, options);
  return out;
}

Vector route_backward(View dweight, View logits, IndexView choice, const RouterOptions& options,
                      View dshare, double dz, IndexView segment) {
  const std::int64_t experts = options.experts;
  const std::int64_t top_k = options.top_k;
  Vector dlogits;
  for (std::int64_t t = 0; t < std::ssize(logits) / experts; ++t) {
    const View row = logits.subspan(t * experts, experts);
    const View dshare_row = dshare.subspan((segment.empty() ? 0 : segment[t]) * experts, experts);
    const auto loss = [&](const Vector& shifted) {
      const Vector scores = score_row(shifted, options);
      return dot(weights_of(scores, choice.subspan(t * top_k, top_k), options),
                 dweight.subspan(t * top_k, top_k)) +
             dot(shares_of(scores, options), dshare_row) +
             dz * std::pow(log_sum_exp(shifted, options), 2);
    };
    for (std::int64_t e = 0; e < experts; ++e) {
      constexpr double kStep = 1e-5;
      Vector up(row.begin(), row.end());
      Vector down = up;
      up[e] += kStep;
      down[e] -= kStep;
      const double slope = row[e] == kNever ? 0.0 : (loss(up) - loss(down)) / (2.0 * kStep);
      dlogits.push_back(slope / options.temperature);
    }
  }
  return dlogits;
}

}  // namespace moesaic::reference
