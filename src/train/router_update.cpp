#include "train/router_update.h"

#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "backend/transfer.h"

namespace moesaic::train {
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

// Calls use(layer, mixture) with each that this rank has and trains.
template <class Use>
void for_each_trained(engine::Instance& instance, std::int64_t layers, const Use& use) {
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const model::Moe* const moe = instance.transformer.moe(layer);
    if (moe != nullptr && moe->router().is_trained()) {
      use(layer, *moe);
    }
  }
}

}  // namespace

void update_routers(engine::Instance& instance, model::MoeStats& stats, double bias_rate,
                    std::int64_t step) {
  Backend& backend = *instance.backend;
  HostCopies before;
  for_each_trained(instance, stats.layers(), [&](std::int64_t, const model::Moe& moe) {
    before.add(moe.router().load().value);
    if (moe.router().bias() != nullptr) {
      before.add(moe.router().bias()->value);
    }
  });
  before.fetch(backend);
  std::size_t at = 0;
  const auto next = [&] {
    const std::span<const float> values = before.at<float>(at++);
    return std::vector<float>(values.begin(), values.end());
  };
  for_each_trained(instance, stats.layers(), [&](std::int64_t layer, const model::Moe& moe) {
    const model::Router& router = moe.router();
    const auto chosen = stats.chosen(layer);
    std::vector<float> loads = next();
    average_load(loads, stats.processed(layer), step);
    backend.upload(std::as_bytes(std::span(loads)), router.load().value);
    if (const model::Parameter* const bias = router.bias()) {
      std::vector<float> values = next();
      move_biases(values, chosen, moe.expert_pool(), bias_rate);
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
  });
}

}  // namespace moesaic::train
