#pragma once

#include "reference/types.h"

namespace moesaic::reference {

enum class Score { kSoftmax, kSigmoid };

enum class Role { kAbsent, kRegular, kSpare, kRetired };

struct RouterOptions {
  Score score = Score::kSoftmax;
  std::int64_t experts = 1, top_k = 1;
  bool normalize = true;
  double scale = 1.0;
  std::int64_t candidates = 0, groups = 1, top_groups = 1;  // candidates 0: all
  double threshold = 0.0, temperature = 1.0;
  std::vector<Role> roles = {};  // empty: all regular

  bool is(std::int64_t expert, Role role) const {
    return roles.empty() ? role == Role::kRegular : roles[expert] == role;
  }
};

struct Routing {
  Vector logits;                 // (T, E): of the candidates, with temperature; -inf elsewhere
  Vector scores;                 // (T, E)
  Vector selection;              // (T, E): where else the token would go; -inf: nowhere
  Indices choice;                // (T, K), best first by score + bias; the lower index wins ties
  Vector weight;                 // (T, K)
  Vector share_sums;             // (S, E): sums over tokens of the scores normalised to sum 1
  double squared_lse_sum = 0.0;  // sum over tokens of logsumexp(logits)^2
  double entropy_sum = 0.0;      // sum over tokens of the shares' entropy, nats
};
/// logits (T, E), bias (E) or empty, added (T, E) or empty, segment (T) or empty.
Routing route(View logits, View bias, const RouterOptions& options, View added = {},
              IndexView segment = {});

/// The weights of any choice (T, K); -1: none.
Vector weights_of(View scores, IndexView choice, const RouterOptions& options);

/// dlogits (T, E), of the gate's, by central differences of: sum weight dweight + sum_t shares_t .
/// dshare + dz sum_t logsumexp_t^2, the choice (T, K) and the candidates held fixed. logits: as a
/// Routing has them. dweight (T, K), dshare (S, E).
Vector route_backward(View dweight, View logits, IndexView choice, const RouterOptions& options,
                      View dshare, double dz, IndexView segment = {});

}  // namespace moesaic::reference
