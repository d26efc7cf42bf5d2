#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace moesaic::data {

/// Rows that continue sequences whose past is in pages (PagedRuns).
struct PageRuns {
  std::vector<std::int32_t> offsets = {0}, position, page_offsets = {0}, pages;
  std::int64_t most_keys = 0;

  void add(std::int64_t rows, std::int64_t first_position,
           std::span<const std::int32_t> sequence_pages);
};

/// Rows [begin, begin + rows) continue a sequence from position `shared` on; its positions before
/// are earlier rows, from `leader` on. shared is a multiple of kForkUnit.
struct KeyRun {
  std::int64_t begin = 0, rows = 0;
  std::int64_t shared = 0, leader = 0;

  std::int64_t size() const { return shared + rows; }
  // The row of position 0.
  std::int64_t first_row() const { return shared > 0 ? leader : begin; }
};

/// Consecutive samples, laid one after the other: T tokens that are planned and computed together.
/// T = 0 is legal: a rank without work still takes part in the collectives.
struct MicroBatch {
  std::vector<std::int32_t> token;      // [T]
  std::vector<std::int32_t> target;     // [T]; -1: not counted
  std::vector<std::int32_t> position;   // [T] within the token's document (for RoPE)
  std::vector<std::int32_t> first_key;  // [T] first token of this micro-batch that it may see
  std::vector<std::uint8_t> task;       // [T]
  std::vector<std::int32_t> sample;     // [T] which of the samples it is of; empty: unknown
  std::vector<float> weight;            // [T] of the target in the loss; empty: all 1
  std::int64_t first = 0;               // its first token among those of the step
  PageRuns runs;                        // of all rows, where the context has a cache
  // Runs without a cache, where bits must not depend on the rest of the batch; position then counts
  // within the run. Empty: first_key is enough.
  std::vector<KeyRun> key_runs;

  std::int64_t size() const { return static_cast<std::int64_t>(token.size()); }
  std::int64_t counted() const;  // targets that are not -1
};

/// What each row sees (VisibleKeys): the keys of its document or sequence up to its own, at most
/// `window` of them (0: no limit). Rows whose past is in pages count positions, others rows. Empty:
/// origin 0, no fork.
struct KeyRanges {
  std::vector<std::int32_t> first, last, origin, fork, jump;  // [T]
};
KeyRanges key_ranges(const MicroBatch& batch, std::int64_t window);

/// The first `rows` tokens of a text, each of which has the next one as its target, if there is
/// one.
MicroBatch text_batch(std::span<const std::int32_t> tokens, std::int64_t rows);

}  // namespace moesaic::data
