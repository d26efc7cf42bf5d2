#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>

#include "config/config.h"
#include "plan/layout.h"

namespace moesaic::plan {

/// Bytes that one rank sends in one training step, by group, where a sum over n ranks goes around a
/// ring: each sends 2 (n - 1) / n of it, or (n - 1) / n to gather or to get the sum of a share.
struct Traffic {
  double tp = 0.0;           // rows of the layers
  double experts = 0.0;      // rows to experts and back; balanced loads
  double pp = 0.0;           // rows to the next stage and back
  double dp = 0.0;           // sums of the experts' gradients
  double replicas = 0.0;     // sums of other gradients, over dp x ep
  double stage = 0.0;        // sums of gates' (and norms') gradients, over tp x dp x ep
  double ends = 0.0;         // a tied table's gradient between first and last stage
  double kv_replicas = 0.0;  // gradients of copied key and value heads

  std::array<std::pair<std::string_view, double>, 8> groups() const;
  double sum() const;
};
Traffic traffic_per_step(const config::Config& config, const Layout& layout, std::int64_t stage);

}  // namespace moesaic::plan
