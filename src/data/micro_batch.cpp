#include "data/micro_batch.h"

#include <algorithm>

namespace moesaic::data {

std::int64_t MicroBatch::counted() const {
  return std::count_if(target.begin(), target.end(), [](std::int32_t t) { return t >= 0; });
}

void PageRuns::add(std::int64_t rows, std::int64_t first_position,
                   std::span<const std::int32_t> sequence_pages) {
  offsets.push_back(offsets.back() + rows);
  position.push_back(first_position);
  pages.insert(pages.end(), sequence_pages.begin(), sequence_pages.end());
  page_offsets.push_back(std::ssize(pages));
}

MicroBatch text_batch(std::span<const std::int32_t> tokens, std::int64_t rows) {
  MicroBatch batch;
  const auto count = static_cast<std::size_t>(rows);
  for (std::size_t t = 0; t < count; ++t) {
    batch.token.push_back(tokens[t]);
    batch.target.push_back(t + 1 < tokens.size() ? tokens[t + 1] : -1);
    batch.position.push_back(static_cast<std::int32_t>(t));
  }
  batch.first_key.resize(count);
  batch.task.resize(count);
  return batch;
}

}  // namespace moesaic::data
