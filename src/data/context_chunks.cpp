#include "data/context_chunks.h"

#include <algorithm>

#include "backend/backend.h"

namespace moesaic::data {

std::vector<Slice> context_chunks(std::int64_t rows, int ranks) {
  const std::int64_t tiles = (rows + kKeyTile - 1) / kKeyTile;
  const std::int64_t count =
      ranks == 1 ? std::min<std::int64_t>(1, tiles) : std::min<std::int64_t>(2 * ranks, tiles);
  std::vector<Slice> chunks;
  for (std::int64_t c = 0; c < count; ++c) {
    const Slice own = share_of(tiles, c, count);
    const std::int64_t begin = own.begin * kKeyTile;
    chunks.push_back({begin, std::min(own.end() * kKeyTile, rows) - begin});
  }
  return chunks;
}

std::vector<Slice> context_rows(std::int64_t rows, int rank, int ranks) {
  std::vector<Slice> own;
  for (std::int64_t c = 0; const Slice chunk : context_chunks(rows, ranks)) {
    if (context_owner(c++, ranks) == rank) {
      own.push_back(chunk);
    }
  }
  return own;
}

std::int64_t most_context_rows(std::int64_t rows, int ranks) {
  std::int64_t most = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    std::int64_t own = 0;
    for (const Slice chunk : context_rows(rows, rank, ranks)) {
      own += chunk.count;
    }
    most = std::max(most, own);
  }
  return most;
}

}  // namespace moesaic::data
