#include "train/stepper.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "checkpoint/load_weights.h"
#include "config/routing_steps.h"
#include "model/routing_recorder.h"
#include "train/optimizer.h"
#include "train/router_update.h"
#include "train/schedule.h"

namespace moesaic::train {

bool StepResult::finite() const { return std::isfinite(grad_norm) && std::isfinite(loss); }

Stepper::Stepper(const config::Config& config, engine::Instance& instance, std::size_t tasks)
    : config_(config),
      instance_(instance),
      ctx_(instance.context()),
      stats_(std::ssize(instance.transformer.moe_layers()), instance.transformer.experts(),
             static_cast<std::int64_t>(tasks), config.model.top_k),
      task_tokens_(tasks, 0.0),
      buffer_(instance, config.router.gradient_buffer) {}

StepOutcome Stepper::forward_backward_all(const data::StepBatches& batches, double size) {
  zero_gradients(instance_);
  StepOutcome outcome = forward_backward(instance_, ctx_, batches.micro_batches, objective_, size);
  for (const data::MicroBatch& batch : batches.micro_batches) {
    for (const std::uint8_t task : batch.task) {
      task_tokens_[task] += 1.0;
    }
  }
  return outcome;
}

// The step's sums over all micro-batches: losses, counts of experts and tasks. Collective.
void Stepper::sum_over_ranks(StepResult& result, const StepOutcome& outcome, double size) {
  const bool reports = instance_.mesh.reports();
  std::array<double, 3> sums = {reports ? outcome.loss : 0.0,
                                reports ? static_cast<double>(outcome.correct) : 0.0,
                                outcome.entropy};
  instance_.mesh.world.all_reduce(std::span<double>(sums), comm::Reduce::kSum);
  const auto targets = static_cast<double>(std::max<std::int64_t>(1, result.targets));
  result.lm_loss = sums[0] / size;
  result.token_accuracy = sums[1] / targets;
  result.entropy = sums[2] / targets;
  stats_.resolve(ctx_);
  instance_.mesh.world.all_reduce(stats_.all(), comm::Reduce::kSum);
  instance_.mesh[comm::Group::kBatches].all_reduce(std::span(task_tokens_), comm::Reduce::kSum);
  result.loss = result.lm_loss;
  for (std::int64_t layer = 0; layer < stats_.layers(); ++layer) {
    const auto tokens = static_cast<double>(result.tokens);
    result.loss += config_.router.aux_loss * stats_.sums(layer)[0] / tokens +
                   config_.router.z_loss * stats_.sums(layer)[1] / tokens;
  }
}

StepResult Stepper::compute(const data::StepBatches& batches, std::int64_t step) {
  StepResult result{.step = step};
  ctx_.batch.step = step;
  stats_.clear();
  routed_.clear();
  ctx_.observers = {stats_.observer()};
  if (config::records_routing(config_.trace, step)) {
    ctx_.observers.push_back(model::routing_recorder(routed_));
  }
  std::fill(task_tokens_.begin(), task_tokens_.end(), 0.0);
  std::array<double, 3> sums = {static_cast<double>(batches.counted), 0.0, 0.0};
  for (const data::MicroBatch& batch : batches.micro_batches) {
    sums[1] += static_cast<double>(batch.size());
    sums[2] += objective_.size(batch);
  }
  instance_.mesh[comm::Group::kBatches].all_reduce(std::span<double>(sums), comm::Reduce::kSum);
  result.targets = static_cast<std::int64_t>(sums[0]);
  result.tokens = static_cast<std::int64_t>(sums[1]);
  const double size = sums[2] > 0.0 ? sums[2] : 1.0;
  ctx_.batch.step_tokens = std::max<std::int64_t>(1, result.tokens);
  const StepOutcome outcome = forward_backward_all(batches, size);
  result.lr = learning_rate(config_.train, step);
  sum_over_ranks(result, outcome, size);
  const PhaseScope phase(instance_.clock, Phase::kOptimizer);
  buffer_.add_deferred(stats_);
  result.grad_norm = gradient_norm(instance_, buffer_);
  return result;
}

void Stepper::update(const StepResult& result) {
  const PhaseScope phase(instance_.clock, Phase::kOptimizer);
  optimizer_step(instance_, buffer_, config_.train, result.lr, result.step, result.grad_norm);
  buffer_.hold(stats_);
  update_routers(instance_, stats_, config_.router.bias_rate, result.step);
}

}  // namespace moesaic::train
