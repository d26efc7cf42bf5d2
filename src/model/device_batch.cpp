#include "model/device_batch.h"

#include "backend/transfer.h"

namespace moesaic::model {

DeviceBatch upload(Backend& backend, const data::MicroBatch& batch) {
  const Shape shape{batch.size()};
  return {.position = to_device(backend, batch.position, shape),
          .first_key = to_device(backend, batch.first_key, shape)};
}

std::vector<std::int32_t> local_ids(const std::vector<std::int32_t>& ids, Slice share) {
  std::vector<std::int32_t> local(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const bool here = ids[i] >= share.begin && ids[i] < share.end();
    local[i] =
        ids[i] < 0 ? -1 : static_cast<std::int32_t>(here ? ids[i] - share.begin : share.count);
  }
  return local;
}

}  // namespace moesaic::model
