#include "model/device_batch.h"

#include "backend/transfer.h"

namespace moesaic::model {

VisibleKeys upload(Backend& backend, const data::KeyRanges& ranges) {
  const Shape shape{std::ssize(ranges.first)};
  const auto given = [&](const std::vector<std::int32_t>& values) {
    return values.empty() ? Tensor() : to_device(backend, values, shape);
  };
  return {.first = to_device(backend, ranges.first, shape),
          .last = to_device(backend, ranges.last, shape),
          .origin = given(ranges.origin),
          .fork = given(ranges.fork),
          .jump = given(ranges.jump)};
}

PagedRuns upload(Backend& backend, const data::PageRuns& runs) {
  const auto given = [&](const std::vector<std::int32_t>& values) {
    return to_device(backend, values, {std::ssize(values)});
  };
  return {.offsets = given(runs.offsets),
          .position = given(runs.position),
          .page_offsets = given(runs.page_offsets),
          .pages = given(runs.pages),
          .most_keys = runs.most_keys};
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
