#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "base/share.h"
#include "data/micro_batch.h"

namespace moesaic::model {

/// What the rows see, at most `window` keys of it (0: no limit); and of each chunk of cp the ranks
/// with rows that see keys in it.
struct SeenKeys {
  std::int64_t window = 0;
  VisibleKeys visible = {};
  std::vector<std::vector<int>> readers = {};
};

/// The parts of a micro-batch that kernels read, on the device.
struct DeviceBatch {
  Tensor position;         // (T) int32
  SeenKeys keys;           // without a window
  SeenKeys windowed = {};  // with the one that a layer has asked for
  PagedRuns runs = {};     // where the context has a cache
  // (T) int32, as this rank's share of the vocabulary has them; made for the first who asks.
  Tensor token = {}, target = {};
};
VisibleKeys upload(Backend& backend, const data::KeyRanges& ranges);
PagedRuns upload(Backend& backend, const data::PageRuns& runs);

/// Ids of a vocabulary, as indices into this rank's share of it: -1 stays, and an id of another
/// share becomes `share.count`, which is none of this one's.
std::vector<std::int32_t> local_ids(const std::vector<std::int32_t>& ids, Slice share);

}  // namespace moesaic::model
