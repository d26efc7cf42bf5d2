#include "reference/loss.h"

#include <algorithm>
#include <cmath>

namespace moesaic::reference {
namespace {

Vector log_softmax(View logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const double logit : logits) {
    sum += std::exp(logit - largest);
  }
  Vector out;
  for (const double logit : logits) {
    out.push_back(logit - largest - std::log(sum));
  }
  return out;
}

}  // namespace

Vector target_log_probs(View logits, IndexView target, std::int64_t vocab) {
  Vector out;
  for (std::int64_t r = 0; r < std::ssize(target); ++r) {
    const Vector row = log_softmax(logits.subspan(r * vocab, vocab));
    out.push_back(target[r] < 0 ? 0.0 : row[target[r]]);
  }
  return out;
}

Indices best_tokens(View logits, std::int64_t vocab) {
  Indices best;
  for (std::int64_t row = 0; row < std::ssize(logits); row += vocab) {
    const View own = logits.subspan(row, vocab);
    best.push_back(std::max_element(own.begin(), own.end()) - own.begin());
  }
  return best;
}

Vector cross_entropy_backward(View logits, IndexView target, std::int64_t vocab, View weight) {
  Vector dlogits;
  for (std::int64_t r = 0; r < std::ssize(target); ++r) {
    const Vector row = log_softmax(logits.subspan(r * vocab, vocab));
    for (std::int64_t v = 0; v < vocab; ++v) {
      const double hit = v == target[r] ? 1.0 : 0.0;
      dlogits.push_back(target[r] < 0 ? 0.0 : weight[r] * (std::exp(row[v]) - hit));
    }
  }
  return dlogits;
}

Vector entropies(View logits, std::int64_t vocab) {
  Vector out;
  for (std::int64_t begin = 0; begin < std::ssize(logits); begin += vocab) {
    double sum = 0.0;
    for (const double log_p : log_softmax(logits.subspan(begin, vocab))) {
      sum -= std::isinf(log_p) ? 0.0 : std::exp(log_p) * log_p;
    }
    out.push_back(sum);
  }
  return out;
}

Vector divergence(View reference, View logits, std::int64_t vocab) {
  Vector out;
  for (std::int64_t begin = 0; begin < std::ssize(logits); begin += vocab) {
    const Vector p = log_softmax(reference.subspan(begin, vocab));
    const Vector q = log_softmax(logits.subspan(begin, vocab));
    double sum = 0.0;
    for (std::int64_t v = 0; v < vocab; ++v) {
      sum += std::exp(p[v]) * (p[v] - q[v]);
    }
    out.push_back(sum);
  }
  return out;
}

}  // namespace moesaic::reference
