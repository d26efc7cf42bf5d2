#pragma once

#include <array>
#include <cstdint>

#include "comm/groups.h"
#include "config/config.h"
#include "model/parameter/parameters.h"
#include "plan/layout.h"
#include "routing/gate_state.h"

namespace moesaic::plan {

/// Bytes that one rank sends in one training step, by group, where a sum over n ranks goes around a
/// ring: each sends 2 (n - 1) / n of it, or (n - 1) / n to gather or to get the sum of a share.
class Traffic {
 public:
  double& operator[](comm::Group group) { return bytes_[comm::index_of(group)]; }
  double operator[](comm::Group group) const { return bytes_[comm::index_of(group)]; }
  double sum() const;

 private:
  std::array<double, comm::kGroupCount> bytes_{};
};
/// tp_rank, tuning: as of RankModel.
Traffic traffic_per_step(const config::Config& config, const Layout& layout, std::int64_t stage,
                         const routing::GateState& gates = {}, std::int64_t tp_rank = -1,
                         const model::Tuning& tuning = {});

}  // namespace moesaic::plan
