#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/expert_pool_change.h"
#include "checkpoint/model_source.h"
#include "engine/instance.h"

namespace moesaic::checkpoint {

enum class Load { kValues, kAll };  // all: optimizer moments as well
/// Reads this rank's share of every tensor, and says so after each parameter. kMismatch names a
/// tensor that is missing or of another shape. change: from the expert pools that the checkpoint
/// was saved with to those of the instance; nullptr: they are the same. Not collective.
void load_parameters(engine::Instance& instance, ModelSource& checkpoint, Load what,
                     const std::function<void()>& on_progress = {},
                     const PoolChange* change = nullptr);

/// Where the frozen tensors of a checkpoint come from.
struct FrozenTensors {
  bool saved = true;                      // else the checkpoint needs its base
  ModelSource* base = nullptr;            // copied from here, in its type; nullptr: initial values
  std::optional<std::int64_t> seed = {};  // of these
};

/// The blocks that this rank writes: each element once over all ranks. The instance and base must
/// outlive them, and values stay until they are written. Not collective.
std::vector<BlockToSave> blocks_to_save(engine::Instance& instance,
                                        const FrozenTensors& frozen = {});

}  // namespace moesaic::checkpoint
