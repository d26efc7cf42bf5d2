#pragma once

#include "reference/types.h"

namespace moesaic::reference {

/// log softmax(logits (R, V)) at target (R); 0 where the target is -1.
Vector target_log_probs(View logits, IndexView target, std::int64_t vocab);
/// The index of the largest logit of each row; the lower index wins ties.
Indices best_tokens(View logits, std::int64_t vocab);
/// dlogits (R, V) of -sum(weight (R) target_log_probs).
Vector cross_entropy_backward(View logits, IndexView target, std::int64_t vocab, View weight);
/// Entropy of the softmax of each row, nats.
Vector entropies(View logits, std::int64_t vocab);

/// D(p || q) of each row, p and q the softmax of reference and logits (R, V).
Vector divergence(View reference, View logits, std::int64_t vocab);

}  // namespace moesaic::reference
