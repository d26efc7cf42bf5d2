#include "reference/router.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moesaic::reference {
namespace {

constexpr double kTiny = 1e-20;  // keeps a token whose chosen scores are all 0 finite

double log_sum_exp(View x) {
  const double largest = *std::max_element(x.begin(), x.end());
  double sum = 0.0;
  for (const double value : x) {
    sum += std::exp(value - largest);
  }
  return largest + std::log(sum);
}

Vector score_row(View logits, Score score) {
  const double lse = log_sum_exp(logits);
  Vector out;
  for (const double logit : logits) {
    out.push_back(score == Score::kSoftmax ? std::exp(logit - lse)
                                           : 1.0 / (1.0 + std::exp(-logit)));
  }
  return out;
}

Indices best_of(View scores, View bias, std::int64_t top_k) {
  Vector selection(scores.begin(), scores.end());
  for (std::size_t e = 0; e < bias.size(); ++e) {
    selection[e] += bias[e];
  }
  Indices order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return selection[a] > selection[b]; });
  order.resize(top_k);
  return order;
}

double sum_of_chosen(View scores, IndexView choice) {
  double sum = 0.0;
  for (const std::int64_t e : choice) {
    sum += scores[e];
  }
  return sum;
}

void add_statistics(Routing& out, View logits, View scores) {
  const double total = std::accumulate(scores.begin(), scores.end(), 0.0);
  for (std::size_t e = 0; e < scores.size(); ++e) {
    const double share = scores[e] / total;
    out.share_sums[e] += share;
    out.entropy_sum -= share > 0.0 ? share * std::log(share) : 0.0;
  }
  out.squared_lse_sum += std::pow(log_sum_exp(logits), 2);
}

// The gradient of a token's scores: from its weights and from its shares.
Vector dscore_row(View dweight, View scores, IndexView choice, const RouterOptions& options,
                  View dshare) {
  const double total = std::accumulate(scores.begin(), scores.end(), 0.0);
  double mean = 0.0;
  for (std::size_t e = 0; e < scores.size(); ++e) {
    mean += dshare[e] * scores[e] / total;
  }
  Vector dscore;
  for (std::size_t e = 0; e < scores.size(); ++e) {
    dscore.push_back((dshare[e] - mean) / total);
  }
  const double sum = options.normalize ? sum_of_chosen(scores, choice) + kTiny : 1.0;
  double weighted = 0.0;
  for (std::size_t k = 0; k < choice.size(); ++k) {
    weighted += options.normalize ? dweight[k] * scores[choice[k]] / sum : 0.0;
  }
  for (std::size_t k = 0; k < choice.size(); ++k) {
    dscore[choice[k]] += options.scale * (dweight[k] - weighted) / sum;
  }
  return dscore;
}

// Through the softmax or the sigmoid.
Vector dlogit_row(const Vector& dscore, View scores, Score score) {
  double mean = 0.0;
  for (std::size_t e = 0; e < scores.size(); ++e) {
    mean += dscore[e] * scores[e];
  }
  Vector out;
  for (std::size_t e = 0; e < scores.size(); ++e) {
    out.push_back(score == Score::kSoftmax ? scores[e] * (dscore[e] - mean)
                                           : scores[e] * (1.0 - scores[e]) * dscore[e]);
  }
  return out;
}

}  // namespace

Routing route(View logits, View bias, const RouterOptions& options) {
  const std::int64_t experts = options.experts;
  Routing out;
  out.share_sums.assign(experts, 0.0);
  for (std::int64_t row = 0; row < std::ssize(logits); row += experts) {
    const View own = logits.subspan(row, experts);
    const Vector scores = score_row(own, options.score);
    const Indices choice = best_of(scores, bias, options.top_k);
    const double sum = options.normalize ? sum_of_chosen(scores, choice) + kTiny : 1.0;
    for (const std::int64_t e : choice) {
      out.choice.push_back(e);
      out.weight.push_back(scores[e] / sum * options.scale);
    }
    out.scores.insert(out.scores.end(), scores.begin(), scores.end());
    add_statistics(out, own, scores);
  }
  return out;
}

Vector route_backward(View dweight, View logits, IndexView choice, const RouterOptions& options,
                      View dshare, double dz) {
  const std::int64_t experts = options.experts;
  const std::int64_t top_k = options.top_k;
  Vector dlogits;
  for (std::int64_t t = 0; t < std::ssize(logits) / experts; ++t) {
    const View own = logits.subspan(t * experts, experts);
    const Vector scores = score_row(own, options.score);
    const Vector dscore = dscore_row(dweight.subspan(t * top_k, top_k), scores,
                                     choice.subspan(t * top_k, top_k), options, dshare);
    Vector row = dlogit_row(dscore, scores, options.score);
    const Vector probabilities = score_row(own, Score::kSoftmax);
    for (std::int64_t e = 0; e < experts; ++e) {
      row[e] += dz * 2.0 * log_sum_exp(own) * probabilities[e];
    }
    dlogits.insert(dlogits.end(), row.begin(), row.end());
  }
  return dlogits;
}

}  // namespace moesaic::reference
