#pragma once

#include <vector>

#include "model/context.h"
#include "model/parameters.h"

namespace moesaic::model {

/// logits = weight x, and the cross-entropy of the next token, a block of rows at a time: no
/// (T, V) buffer exists.   x: (T, D) compute   weight: (V, D), the embedding's if tied
class Head {
 public:
  explicit Head(Parameter& weight) : weight_(weight) {}

  struct LogProbs {
    std::vector<float> logprob;      // [T] nats, of batch.target; 0 where it is -1
    std::vector<std::int32_t> best;  // [T] the likeliest token
  };
  LogProbs log_probs(Context& ctx, const Tensor& x) const;

  /// The loss is -scale sum(logprob). Writes dx (T, D) fp32 and adds into the weight's gradient in
  /// the same pass over the logits; returns logprob [T].
  std::vector<float> loss(Context& ctx, const Tensor& x, float scale, const Tensor& dx) const;

  /// All logits (T, V) fp32; for tests and small inputs.
  Tensor logits(Context& ctx, const Tensor& x) const;

 private:
  std::int64_t block_rows() const;

  Parameter& weight_;
};

}  // namespace moesaic::model
