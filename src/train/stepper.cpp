#include "train/stepper.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/transfer.h"
#include "checkpoint/load_weights.h"
#include "config/pool.h"
#include "config/routing_steps.h"
#include "train/optimizer.h"
#include "train/schedule.h"
#include "train/step.h"

namespace moesaic::train {

bool StepResult::finite() const { return std::isfinite(grad_norm) && std::isfinite(loss); }

Stepper::Stepper(const config::Config& config, engine::Instance& instance, std::size_t tasks)
    : config_(config),
      instance_(instance),
      step_tokens_(config.train.batch * config.data.seq_len),
      ctx_(instance.context()),
      stats_(std::ssize(instance.transformer.moe_layers()),
             config::expert_numbers(config.model, config.router), static_cast<std::int64_t>(tasks),
             config.model.top_k),
      task_tokens_(tasks, 0.0),
      buffer_(instance, config.router.gradient_buffer) {
  ctx_.stats = &stats_;
  ctx_.step_tokens = step_tokens_;
}

double Stepper::forward_backward_all(const data::StepBatches& batches, std::int64_t targets) {
  zero_gradients(instance_);
  double nats = 0.0;
  for (const std::vector<float>& logprob : forward_backward(instance_, ctx_, batches.micro_batches,
                                                            1.0 / static_cast<double>(targets))) {
    for (const float p : logprob) {
      nats -= static_cast<double>(p);
    }
  }
  for (const data::MicroBatch& batch : batches.micro_batches) {
    for (const std::uint8_t task : batch.task) {
      task_tokens_[task] += 1.0;
    }
  }
  return instance_.mesh.reports() ? nats : 0.0;
}

// The step's sums over all micro-batches: losses, counts of experts and tasks. Collective.
void Stepper::sum_over_ranks(StepResult& result, double nats) {
  result.lm_loss = instance_.mesh.world.all_reduce(nats, comm::Reduce::kSum) /
                   static_cast<double>(std::max<std::int64_t>(1, result.targets));
  instance_.mesh.world.all_reduce(stats_.all(), comm::Reduce::kSum);
  instance_.mesh.replicas.all_reduce(std::span(task_tokens_), comm::Reduce::kSum);
  result.loss = result.lm_loss;
  for (std::int64_t layer = 0; layer < stats_.layers(); ++layer) {
    const auto tokens = static_cast<double>(step_tokens_);
    result.loss += config_.router.aux_loss * stats_.sums(layer)[0] / tokens +
                   config_.router.z_loss * stats_.sums(layer)[1] / tokens;
  }
}

namespace {

// DeepSeek-V3, section 2.1.2: experts with less than their share become likelier choices.
void move_biases(std::vector<float>& bias, std::span<const double> chosen,
                 const routing::ExpertPool& expert_pool, double rate) {
  const double mean = std::accumulate(chosen.begin(), chosen.end(), 0.0) /
                      static_cast<double>(expert_pool.count(ExpertState::kRegular));
  for (std::size_t e = 0; e < bias.size(); ++e) {
    const double sign = mean > chosen[e] ? 1.0 : (mean < chosen[e] ? -1.0 : 0.0);
    bias[e] +=
        expert_pool.state[e] == ExpertState::kRegular ? static_cast<float>(rate * sign) : 0.0F;
  }
}

// A moving average whose weights always sum to 1: that of Adam with its correction for the start.
void average_load(std::vector<float>& load, std::span<const double> processed, std::int64_t step) {
  constexpr double kDecay = 0.99;
  const double weight = (1.0 - kDecay) / (1.0 - std::pow(kDecay, static_cast<double>(step)));
  const double all = std::accumulate(processed.begin(), processed.end(), 0.0);
  for (std::size_t e = 0; e < load.size() && all > 0.0; ++e) {
    const auto before = static_cast<double>(load[e]);
    load[e] = static_cast<float>(before + weight * (processed[e] / all - before));
  }
}

}  // namespace

// What the routers keep of a step's choices.
void Stepper::update_routers(std::int64_t step) {
  for (std::int64_t layer = 0; layer < stats_.layers(); ++layer) {
    const model::Moe* const moe = instance_.transformer.moe(layer);
    if (moe == nullptr) {
      continue;
    }
    const model::Router& router = moe->router();
    Backend& backend = *instance_.backend;
    const auto chosen = stats_.chosen(layer);
    std::vector<float> loads = to_host_f32(backend, router.load().value);
    average_load(loads, stats_.processed(layer), step);
    backend.upload(std::as_bytes(std::span(loads)), router.load().value);
    if (const model::Parameter* const bias = router.bias()) {
      std::vector<float> values = to_host_f32(backend, bias->value);
      move_biases(values, chosen, moe->expert_pool(), config_.router.bias_rate);
      backend.upload(std::as_bytes(std::span(values)), bias->value);
    }
    if (const model::Parameter* const load = router.previous_load()) {
      const double all = std::accumulate(chosen.begin(), chosen.end(), 0.0);
      std::vector<float> shares;
      for (const double n : chosen) {
        shares.push_back(static_cast<float>(n / all));
      }
      backend.upload(std::as_bytes(std::span(shares)), load->value);
    }
  }
}

StepResult Stepper::compute(const data::StepBatches& batches, std::int64_t step) {
  StepResult result{.step = step, .tokens = step_tokens_};
  ctx_.step = step;
  stats_.clear();
  routed_.clear();
  ctx_.routed = config::records_routing(config_.trace, step) ? &routed_ : nullptr;
  std::fill(task_tokens_.begin(), task_tokens_.end(), 0.0);
  result.targets = instance_.mesh.replicas.all_reduce(batches.counted, comm::Reduce::kSum);
  const double nats = forward_backward_all(batches, std::max<std::int64_t>(1, result.targets));
  result.lr = learning_rate(config_.train, step);
  sum_over_ranks(result, nats);
  const PhaseScope phase(instance_.clock, Phase::kOptimizer);
  buffer_.add_deferred(stats_);
  result.grad_norm = gradient_norm(instance_, buffer_);
  return result;
}

void Stepper::update(const StepResult& result) {
  const PhaseScope phase(instance_.clock, Phase::kOptimizer);
  optimizer_step(instance_, buffer_, config_.train, result.lr, result.step, result.grad_norm);
  buffer_.hold(stats_);
  update_routers(result.step);
}

}  // namespace moesaic::train
