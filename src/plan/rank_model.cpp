#include "plan/rank_model.h"

#include <algorithm>

#include "plan/numbers.h"

namespace moesaic::plan {
namespace {

model::Placement placement_of(const Layout& layout, std::int64_t stage, std::int64_t tp_rank) {
  const auto number = [](std::int64_t value) { return static_cast<int>(value); };
  return {.tp_rank = number(tp_rank < 0 ? layout.tp - 1 : tp_rank),
          .tp = number(layout.tp),
          .expert_rank = number(layout.expert_ranks() - 1),
          .expert_ranks = number(layout.expert_ranks()),
          .folded = layout.folded,
          .sequence = layout.sequence,
          .stage = number(stage),
          .stages = number(layout.pp),
          .chunks = number(layout.chunks)};
}

}  // namespace

RankModel::RankModel(const config::Config& config, const Layout& layout, std::int64_t stage,
                     const routing::GateState& gates, std::int64_t tp_rank)
    : transformer(parameters, config.model, config.router, placement_of(layout, stage, tp_rank),
                  gates) {}

Held held_by(const RankModel& rank) {
  Held held;
  for (const model::Parameter& p : rank.parameters.all()) {
    const double elements = real(p.spec.shape.numel());
    switch (p.spec.sum) {
      case model::SumOver::kExpertReplicas:
        held.experts += elements;
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
      held.partial += tensor.partial ? slice : 0.0;
      held.largest = std::max(held.largest, slice);
    }
  }
  return held;
}

}  // namespace moesaic::plan
