#pragma once

#include <cstdint>
#include <vector>

#include "config/config.h"
#include "plan/layout.h"
#include "plan/rank_model.h"

// What backward reaches, and what it needs, by what is trained.
namespace moesaic::plan {

/// Inputs of a layer's products that are kept for the gradients of their weights.
struct KeptInputs {
  bool attention = false;  // of queries, keys and values, or of the latent vectors
  bool latent = false;     // the latent vectors themselves
  bool feed_forward =
      false;             // of gate and up of a dense layer or the shared experts; of the router
  bool product = false;  // of down, of the same
  bool experts = false;  // of gate and up of the experts
};

/// The layers of a stage that backward reaches, and what each of them keeps.
struct LayerInBackward {
  std::int64_t layer = 0;
  KeptInputs kept;
};
std::vector<LayerInBackward> layers_in_backward(const config::Model& model, const Layout& layout,
                                                std::int64_t stage, const RankModel& rank);

/// How many of them there are, and what backward reaches beside them.
struct Reached {
  double all = 0.0, moe = 0.0;
  bool embedding = true, hidden = true;  // the table, and what the head reads
};
Reached reached_by_backward(const config::Model& model, const Layout& layout, std::int64_t stage,
                            const RankModel& rank);

}  // namespace moesaic::plan
