#pragma once

#include <functional>
#include <span>
#include <vector>

#include "data/micro_batch.h"

namespace moesaic::train {

/// What training minimises: over the targets of the global batch
///   sum weight_t (-log p_t) / sum size
/// The gradient of a row's logits is its weight times (softmax - one-hot), so weights may depend on
/// the log-probabilities themselves.
struct Objective {
  /// What a micro-batch adds to the number that the global batch is divided by.
  std::function<double(const data::MicroBatch& batch)> size;
  /// [T] of the rows; 0 where there is no target. logprob: [T], or empty unless it is read.
  std::function<std::vector<float>(const data::MicroBatch& batch, std::span<const float> logprob)>
      weigh;
  bool reads_log_probs = false;  // then the head computes them first
};

/// Next-token prediction: each target has the weight of its document, 1 by default, and the loss is
/// the weighted mean.
Objective cross_entropy();

}  // namespace moesaic::train
