#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "config/config.h"
#include "config/pool_request.h"
#include "routing/gate_state.h"

namespace moesaic::checkpoint {

/// What becomes of the experts of one MoE layer.
struct LayerChange {
  static constexpr std::int32_t kFresh = -1;

  std::string before, after;         // a letter for each number (routing::expert_pool_of)
  std::vector<std::int32_t> source;  // of each number that is new: what it is a copy of, or kFresh
  std::vector<float> load;           // measured, by number before; of new ones what is expected

  std::int64_t old_numbers() const { return static_cast<std::int64_t>(before.size()); }
  /// The entry of a new expert, from a vector over the old experts: a copy gets that of its source,
  /// a fresh expert the mean of the regular ones.
  float carried(std::span<const float> values, std::int64_t number) const;
  /// Numbers that were of one kind (0: did not exist) and are of another.
  std::vector<std::int32_t> turned(char from, char to) const;
};

/// A change of all expert pools, applied while a checkpoint is loaded (load_parameters).
struct PoolChange {
  std::vector<std::int64_t> numbers;  // of the MoE layers in the model
  std::int64_t seed = 1;              // of what is new
  std::vector<LayerChange> layers;

  /// nullptr: the tensor is in no MoE layer.
  const LayerChange* of(const std::string& tensor) const;
  /// For the trace and the log: "layer 3: 16 copies 2; ..."
  std::string text() const;
  /// A line for each layer and the load of its experts before.
  std::vector<std::vector<std::string>> rows() const;
};

/// What the requests, one after the other, do to the model's expert pools. load: of each MoE layer
/// by number; empty: all alike. Throws kUsage where a layer cannot do it.
PoolChange change_pools(const config::Config& config, const routing::GateState& gates,
                        const std::vector<config::PoolRequest>& requests,
                        const std::vector<std::vector<float>>& load);

/// The gates as they are after the change.
void adopt(const PoolChange& change, const config::Config& config, routing::GateState& gates);

}  // namespace moesaic::checkpoint
