#pragma once

#include <vector>

#include "data/batches.h"
#include "engine/instance.h"
#include "model/moe_stats.h"
#include "routing/routed_rows.h"
#include "train/gradient_buffer.h"
#include "train/objective.h"
#include "train/step.h"

namespace moesaic::train {

/// One step as every rank knows it after the reductions.
struct StepResult {
  std::int64_t step = 0, tokens = 0, targets = 0;
  double loss = 0, lm_loss = 0, grad_norm = 0, lr = 0;
  double token_accuracy = 0, entropy = 0;  // over targets: share that is the argmax; mean, nats
  bool finite() const;                     // the same answer on every rank
};

/// The two halves of a step: what the batches say, and the update. Both are collective over the
/// mesh.
class Stepper {
 public:
  /// Config and instance must outlive it. tasks: names of them in the trace.
  Stepper(const config::Config& config, engine::Instance& instance, std::size_t tasks);
  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;

  /// Losses, counts and gradients; changes no parameter, so that it may be repeated.
  StepResult compute(const data::StepBatches& batches, std::int64_t step);
  /// Moves the parameters by the gradients that the last compute left.
  void update(const StepResult& result);

  // Sums of the last compute over all ranks.
  model::MoeStats& stats() { return stats_; }
  const std::vector<double>& task_tokens() const { return task_tokens_; }
  /// Routing rows of this rank; empty unless the step's routing is recorded.
  std::vector<routing::RoutedRows>& routed() { return routed_; }

 private:
  StepOutcome forward_backward_all(const data::StepBatches& batches, double size);
  void sum_over_ranks(StepResult& result, const StepOutcome& outcome, double size);

  const config::Config& config_;
  engine::Instance& instance_;
  model::Context ctx_;
  model::MoeStats stats_;
  std::vector<double> task_tokens_;
  GradientBuffer buffer_;
  Objective objective_ = cross_entropy();
  std::vector<routing::RoutedRows> routed_;
};

}  // namespace moesaic::train
