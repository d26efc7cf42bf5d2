#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>

#include "config/config.h"

namespace moesaic::plan {

/// How the ranks are arranged: experts are shared out over ep and replicated over dp, everything
/// else is replicated over both.
struct Layout {
  std::int64_t ep = 1, dp = 1;
  std::int64_t ranks() const { return ep * dp; }
};

/// Bytes on one rank, by class; balanced expert loads.
struct Memory {
  double weights = 0.0;      // fp32
  double copies = 0.0;       // bf16 copies of what matrix products read
  double gradients = 0.0;    // fp32
  double moments = 0.0;      // AdamW, two fp32
  double activations = 0.0;  // kept from forward to backward, of one micro-batch
  double dispatch = 0.0;     // rows on their way through the experts of one layer
  double logits = 0.0;       // of one block of rows

  std::array<std::pair<std::string_view, double>, 7> classes() const;
  double sum() const;
};

/// Of a resolved config. `training` adds gradients, moments and what backward needs.
Memory memory_per_rank(const config::Config& config, const Layout& layout, bool training);

/// Bytes that one rank sends in one training step.
struct Traffic {
  double ep = 0.0;        // all-to-all of tokens, forward and backward
  double dp = 0.0;        // sums of the experts' gradients
  double replicas = 0.0;  // sums of all other gradients, over dp x ep
};
Traffic traffic_per_step(const config::Config& config, const Layout& layout);

}  // namespace moesaic::plan
