#pragma once

#include "config/config.h"
#include "model/transformer.h"
#include "plan/layout.h"

namespace moesaic::plan {

/// The model on one rank of a layout, as its layers say: parameters with names, shapes and sums,
/// which get no memory. It is the rank of the stage that holds most: of those that share out
/// experts, and by default of those of tp. Where shares do not divide evenly, the last ones are
/// larger (share_of).
struct RankModel {
  model::Parameters parameters;
  model::Transformer transformer;

  /// The config must be resolved. tp_rank: negative: the last. tuning: what is trained.
  RankModel(const config::Config& config, const Layout& layout, std::int64_t stage,
            const routing::GateState& gates, std::int64_t tp_rank = -1,
            const model::Tuning& tuning = {});
  /// The same of a given rank among those that share out experts.
  struct Position {
    std::int64_t stage = 0, tp_rank = 0, expert_rank = 0;
  };
  RankModel(const config::Config& config, const Layout& layout, const Position& position,
            const routing::GateState& gates, const model::Tuning& tuning);
};

/// Elements that are trained on one rank.
struct Held {
  double experts = 0.0;
  double summed_over_expert_stage = 0.0;  // halves of adapters of split experts: over tp as well
  double summed_over_stage = 0.0;  // gates, and norms if the sequence is split: over tp as well
  double others = 0.0;
  double tied = 0.0;     // of these: the table of the first and the last stage
  double partial = 0.0;  // of these: key and value heads that several ranks of tp have
  double largest = 0.0;  // in one public tensor, trained or not
  double sum() const { return experts + summed_over_expert_stage + summed_over_stage + others; }
};
Held held_by(const RankModel& rank);

}  // namespace moesaic::plan
