#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/share.h"
#include "data/micro_batch.h"

// How the ranks of cp share the rows of a micro-batch (context parallelism).
namespace moesaic::data {

/// The chunks of so many rows for so many ranks, in order of position: min(2 ranks, key tiles) of
/// them, cut where tiles of keys (kKeyTile) end, as even as can be. One rank has one chunk.
/// origins: of the tiles that each row sees (VisibleKeys); empty: 0.
std::vector<Slice> context_chunks(std::int64_t rows, int ranks,
                                  std::span<const std::int32_t> origins = {});

/// The rank that has chunk c: of 2n chunks rank i of n has i and 2n - 1 - i, so that all have as
/// much causal attention to compute (zigzag; Brandon et al. 2023, Zhu 2024). With fewer chunks
/// ranks may have none.
constexpr int context_owner(std::int64_t chunk, int ranks) {
  return static_cast<int>(chunk < ranks ? chunk : 2 * ranks - 1 - chunk);
}

/// The chunks of one rank, in order of position.
std::vector<Slice> chunks_of_rank(std::span<const Slice> chunks, int rank, int ranks);

/// The most rows that a rank has.
std::int64_t most_context_rows(std::int64_t rows, int ranks);

/// For each chunk, the ranks with rows that see keys in it, ascending.
std::vector<std::vector<int>> context_readers(const KeyRanges& ranges,
                                              std::span<const Slice> chunks, int ranks);

/// The values of some rows, `width` of each.
template <class T>
std::vector<T> of_rows(const std::vector<T>& values, std::span<const Slice> rows,
                       std::int64_t width) {
  std::vector<T> part;
  for (const Slice slice : rows) {
    part.insert(part.end(), values.begin() + slice.begin * width,
                values.begin() + slice.end() * width);
  }
  return part;
}

/// Some rows of a micro-batch, in order. Their first keys stay rows of all of it.
MicroBatch rows_of(const MicroBatch& batch, std::span<const Slice> rows);
KeyRanges rows_of(const KeyRanges& ranges, std::span<const Slice> rows);

}  // namespace moesaic::data
