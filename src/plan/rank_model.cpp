#include "plan/rank_model.h"

#include <algorithm>

#include "config/layers.h"
#include "plan/numbers.h"
#include "routing/expert_pool.h"

namespace moesaic::plan {
namespace {

/// The rank that holds most experts in the MoE layers of the stage; the last of several.
std::int64_t fullest_rank(const config::Config& config, const Layout& layout, std::int64_t stage,
                          const routing::GateState& gates) {
  const std::vector<std::int64_t> moe_layers = config::moe_layers(config.model);
  std::vector<std::size_t> held(static_cast<std::size_t>(layout.expert_ranks()), 0);
  for (const std::int64_t layer : layers_of_stage(config.model, layout, stage)) {
    const auto found = std::lower_bound(moe_layers.begin(), moe_layers.end(), layer);
    if (found == moe_layers.end() || *found != layer) {
      continue;
    }
    const std::int64_t i = found - moe_layers.begin();
    const routing::ExpertPool pool = routing::make_expert_pool(
        routing::expert_pool_of(config.model, config.router, gates, i),
        static_cast<int>(held.size()),
        gates.loads.empty() ? std::span<const float>()
                            : gates.loads.at(static_cast<std::size_t>(i)));
    for (std::size_t rank = 0; rank < held.size(); ++rank) {
      held[rank] += pool.of_rank[rank].size();
    }
  }
  return std::distance(held.begin(), std::max_element(held.rbegin(), held.rend()).base()) - 1;
}

model::Placement placement_of(const Layout& layout, std::int64_t stage, std::int64_t expert_rank,
                              std::int64_t tp_rank) {
  const auto number = [](std::int64_t value) { return static_cast<int>(value); };
  return {.tp_rank = number(tp_rank < 0 ? layout.tp - 1 : tp_rank),
          .tp = number(layout.tp),
          .expert_rank = number(expert_rank),
          .expert_ranks = number(layout.expert_ranks()),
          .folded = layout.folded,
          .sequence = layout.sequence,
          .stage = number(stage),
          .stages = number(layout.pp),
          .chunks = number(layout.chunks)};
}

}  // namespace

RankModel::RankModel(const config::Config& config, const Layout& layout, std::int64_t stage,
                     const routing::GateState& gates, std::int64_t tp_rank,
                     const model::Tuning& tuning)
    : RankModel(config, layout, {stage, tp_rank, fullest_rank(config, layout, stage, gates)}, gates,
                tuning) {}

RankModel::RankModel(const config::Config& config, const Layout& layout, const Position& position,
                     const routing::GateState& gates, const model::Tuning& tuning)
    : parameters(tuning),
      transformer(parameters, config.model, config.router,
                  placement_of(layout, position.stage, position.expert_rank, position.tp_rank),
                  gates) {}

Held held_by(const RankModel& rank) {
  Held held;
  for (const model::Parameter& p : rank.parameters.all()) {
    const double elements = real(p.trained_elements());
    switch (p.spec.sum) {
      case model::SumOver::kExpertReplicas:
        held.experts += elements;
        break;
      case model::SumOver::kExpertStage:
        held.summed_over_expert_stage += elements;
        break;
      case model::SumOver::kStage:
        held.summed_over_stage += elements;
        break;
      case model::SumOver::kReplicas:
        held.others += elements;
        break;
    }
    held.tied += p.spec.tied ? elements : 0.0;
    for (const model::PublicTensor& tensor : p.spec.tensors) {
      const double slice = real(tensor.slice_shape().numel());
      const bool trained = p.trained_rows_with(tensor).count > 0;
      held.partial += tensor.partial && trained ? slice : 0.0;
      held.largest = std::max(held.largest, slice);
    }
  }
  return held;
}

}  // namespace moesaic::plan
