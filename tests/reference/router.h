#pragma once

#include "reference/types.h"

namespace moesaic::reference {

enum class Score { kSoftmax, kSigmoid };

struct RouterOptions {
  Score score = Score::kSoftmax;
  std::int64_t experts = 1, top_k = 1;
  bool normalize = true;
  double scale = 1.0;
};

struct Routing {
  Vector scores;                 // (T, E)
  Indices choice;                // (T, K), best first by score + bias; the lower index wins ties
  Vector weight;                 // (T, K)
  Vector share_sums;             // (E): sums over tokens of the scores normalised to sum 1
  double squared_lse_sum = 0.0;  // sum over tokens of logsumexp(logits)^2
  double entropy_sum = 0.0;      // sum over tokens of the shares' entropy, nats
};
/// logits (T, E), bias (E) or empty.
Routing route(View logits, View bias, const RouterOptions& options);

/// dlogits (T, E) of: sum weight dweight + sum_t shares_t . dshare + dz sum_t logsumexp_t^2, the
/// choices held fixed. dweight (T, K), dshare (E).
Vector route_backward(View dweight, View logits, IndexView choice, const RouterOptions& options,
                      View dshare, double dz);

}  // namespace moesaic::reference
