#pragma once

#include <cstdint>
#include <vector>

#include "config/config.h"

namespace moesaic::plan {

/// How the ranks are arranged, and what they share out.
struct Layout {
  std::int64_t tp = 1, pp = 1, ep = 1, cp = 1, dp = 1;
  std::int64_t chunks = 1;  // runs of layers on each stage
  bool folded = false;      // experts are whole, over ep x tp
  bool sequence = false;    // rows are shared out over tp outside of products
  bool zero = false;        // optimizer state is shared out over the copies
  bool recompute = false;   // of a block only its input is kept for backward

  /// The layout of a resolved config on so many ranks.
  static Layout of(const config::Config& config, std::int64_t ranks);

  std::int64_t ranks() const { return tp * pp * cp * replicas(); }
  std::int64_t replicas() const { return ep * dp; }        // with micro-batches of their own
  std::int64_t expert_copies() const { return dp * cp; }   // that hold the same experts
  std::int64_t copies() const { return replicas() * cp; }  // that hold the same of all else
  std::int64_t expert_ranks() const { return folded ? ep * tp : ep; }  // that share out experts
  std::int64_t expert_split() const { return folded ? 1 : tp; }        // that split each of them
};

/// The layers of a stage, ascending.
std::vector<std::int64_t> layers_of_stage(const config::Model& model, const Layout& layout,
                                          std::int64_t stage);

/// Layers of a stage by kind, and what else it holds.
struct Stage {
  std::int64_t dense = 0, moe = 0;
  bool embedding = false, head = false;
};
Stage stage_of(const config::Model& model, const Layout& layout, std::int64_t stage);

/// Micro-batches that one replica computes in a step.
std::int64_t micro_batches_per_rank(const config::Train& train, const Layout& layout);

}  // namespace moesaic::plan
