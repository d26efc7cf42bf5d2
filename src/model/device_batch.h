#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "base/share.h"
#include "data/micro_batch.h"

namespace moesaic::model {

/// The parts of a micro-batch that kernels read, on the device.
struct DeviceBatch {
  Tensor position;   // (T) int32
  VisibleKeys keys;  // without a window
  // The same with a window, once a layer has asked for it.
  std::int64_t window = 0;
  VisibleKeys windowed = {};
};
DeviceBatch upload(Backend& backend, const data::MicroBatch& batch);
VisibleKeys upload(Backend& backend, const data::KeyRanges& ranges);

/// Ids of a vocabulary, as indices into this rank's share of it: -1 stays, and an id of another
/// share becomes `share.count`, which is none of this one's.
std::vector<std::int32_t> local_ids(const std::vector<std::int32_t>& ids, Slice share);

}  // namespace moesaic::model
