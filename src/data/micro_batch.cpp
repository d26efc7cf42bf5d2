#include "data/micro_batch.h"

#include <algorithm>
#include <limits>

namespace moesaic::data {
namespace {

void add(KeyRanges& ranges, std::int64_t first, std::int64_t own, std::int64_t window) {
  const std::int64_t oldest = window > 0 ? own - window + 1 : 0;
  ranges.first.push_back(static_cast<std::int32_t>(std::max(first, oldest)));
  ranges.last.push_back(static_cast<std::int32_t>(own + 1));
}

void add(KeyRanges& ranges, const KeyRun& run, std::int64_t window) {
  const std::int64_t first = run.first_row();
  const bool forks = run.shared > 0;
  for (std::int64_t i = run.shared; i < run.size(); ++i) {
    add(ranges, first, first + i, window);
    ranges.origin.push_back(static_cast<std::int32_t>(first));
    ranges.fork.push_back(forks ? static_cast<std::int32_t>(first + run.shared)
                                : std::numeric_limits<std::int32_t>::max());
    ranges.jump.push_back(forks ? static_cast<std::int32_t>(run.begin - (run.leader + run.shared))
                                : 0);
  }
}

}  // namespace

KeyRanges key_ranges(const MicroBatch& batch, std::int64_t window) {
  KeyRanges ranges;
  if (!batch.key_runs.empty()) {
    for (const KeyRun& run : batch.key_runs) {
      add(ranges, run, window);
    }
    const bool forks = std::any_of(batch.key_runs.begin(), batch.key_runs.end(),
                                   [](const KeyRun& run) { return run.shared > 0; });
    if (!forks) {
      ranges.fork.clear();
      ranges.jump.clear();
    }
    return ranges;
  }
  const bool in_pages = !batch.runs.position.empty();
  for (std::int64_t t = 0; t < batch.size(); ++t) {
    const auto at = static_cast<std::size_t>(t);
    if (in_pages) {
      add(ranges, 0, batch.position[at], window);
    } else {
      add(ranges, batch.first_key[at], t, window);
    }
  }
  return ranges;
}

std::int64_t MicroBatch::counted() const {
  return std::count_if(target.begin(), target.end(), [](std::int32_t t) { return t >= 0; });
}

void PageRuns::add(std::int64_t rows, std::int64_t first_position,
                   std::span<const std::int32_t> sequence_pages) {
  offsets.push_back(offsets.back() + static_cast<std::int32_t>(rows));
  position.push_back(static_cast<std::int32_t>(first_position));
  pages.insert(pages.end(), sequence_pages.begin(), sequence_pages.end());
  page_offsets.push_back(static_cast<std::int32_t>(pages.size()));
  most_keys = std::max(most_keys, first_position + rows);
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
