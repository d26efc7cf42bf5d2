#pragma once

#include <cstdint>
#include <vector>

#include "base/share.h"

// How the ranks of cp share the rows of a micro-batch (context parallelism).
namespace moesaic::data {

/// The chunks of so many rows for so many ranks, in order of position: min(2 ranks, key tiles) of
/// them, cut at key tiles (kKeyTile), as even as can be. One rank has one chunk.
std::vector<Slice> context_chunks(std::int64_t rows, int ranks);

/// The rank that has chunk c: of 2n chunks rank i of n has i and 2n - 1 - i, so that all have as
/// much causal attention to compute (zigzag; Brandon et al. 2023, Zhu 2024). With fewer chunks
/// ranks may have none.
constexpr int context_owner(std::int64_t chunk, int ranks) {
  return static_cast<int>(chunk < ranks ? chunk : 2 * ranks - 1 - chunk);
}

/// The rows of one rank: its chunks, in order of position.
std::vector<Slice> context_rows(std::int64_t rows, int rank, int ranks);

/// The most rows that a rank has.
std::int64_t most_context_rows(std::int64_t rows, int ranks);

}  // namespace moesaic::data
