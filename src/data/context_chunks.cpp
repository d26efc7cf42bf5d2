#include "data/context_chunks.h"

#include <algorithm>

#include "backend/attention.h"

namespace moesaic::data {

std::vector<Slice> context_chunks(std::int64_t rows, int ranks,
                                  std::span<const std::int32_t> origins) {
  const std::int64_t tiles = (rows + kKeyTile - 1) / kKeyTile;
  const std::int64_t count = ranks == 1 ? std::min<std::int64_t>(1, tiles)
                                        : std::min<std::int64_t>(std::int64_t{2} * ranks, tiles);
  // Even cuts, each put back to where a tile of the sequence in which it lies begins.
  const auto border = [&](std::int64_t c) {
    const std::int64_t cut = share_of(tiles, c, count).begin * kKeyTile;
    const std::int64_t origin = origins.empty() ? 0 : origins[static_cast<std::size_t>(cut)];
    return origin + (cut - origin) / kKeyTile * kKeyTile;
  };
  std::vector<Slice> chunks;
  for (std::int64_t c = 0; c < count; ++c) {
    const std::int64_t begin = c == 0 ? 0 : border(c);
    chunks.push_back({begin, (c + 1 == count ? rows : border(c + 1)) - begin});
  }
  return chunks;
}

std::vector<Slice> chunks_of_rank(std::span<const Slice> chunks, int rank, int ranks) {
  std::vector<Slice> own;
  for (std::int64_t c = 0; const Slice chunk : chunks) {
    if (context_owner(c++, ranks) == rank) {
      own.push_back(chunk);
    }
  }
  return own;
}

std::int64_t most_context_rows(std::int64_t rows, int ranks) {
  const std::vector<Slice> chunks = context_chunks(rows, ranks);
  std::int64_t most = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    std::int64_t own = 0;
    for (const Slice chunk : chunks_of_rank(chunks, rank, ranks)) {
      own += chunk.count;
    }
    most = std::max(most, own);
  }
  return most;
}

std::vector<std::vector<int>> context_readers(const KeyRanges& ranges,
                                              std::span<const Slice> chunks, int ranks) {
  const auto chunk_of = [&](std::int64_t row) {
    const auto after =
        std::upper_bound(chunks.begin(), chunks.end(), row,
                         [](std::int64_t r, Slice chunk) { return r < chunk.begin; });
    return after - chunks.begin() - 1;
  };
  std::vector<std::vector<int>> readers(chunks.size());
  for (std::int64_t c = 0; const Slice chunk : chunks) {
    const int reader = context_owner(c++, ranks);
    for (std::int64_t row = chunk.begin; row < chunk.end(); row += kKeyTile) {
      // What the rows of a tile see, all together.
      const auto begin = static_cast<std::ptrdiff_t>(row);
      const auto end = static_cast<std::ptrdiff_t>(std::min(row + kKeyTile, chunk.end()));
      const std::int64_t first =
          *std::min_element(ranges.first.begin() + begin, ranges.first.begin() + end);
      const std::int64_t last =
          *std::max_element(ranges.last.begin() + begin, ranges.last.begin() + end);
      for (auto seen = chunk_of(first); first < last && seen <= chunk_of(last - 1); ++seen) {
        std::vector<int>& list = readers[static_cast<std::size_t>(seen)];
        if (std::find(list.begin(), list.end(), reader) == list.end()) {
          list.push_back(reader);
        }
      }
    }
  }
  for (std::vector<int>& list : readers) {
    std::sort(list.begin(), list.end());
  }
  return readers;
}

namespace {

// A column may be absent.
template <class T>
std::vector<T> rows_of(const std::vector<T>& column, std::span<const Slice> rows) {
  return column.empty() ? column : of_rows(column, rows, 1);
}

}  // namespace

MicroBatch rows_of(const MicroBatch& batch, std::span<const Slice> rows) {
  return {.token = rows_of(batch.token, rows),
          .target = rows_of(batch.target, rows),
          .position = rows_of(batch.position, rows),
          .first_key = rows_of(batch.first_key, rows),
          .task = of_rows(batch.task, rows, 1),
          .sample = rows_of(batch.sample, rows),
          .weight = rows_of(batch.weight, rows),
          .first = batch.first,
          .runs = {},
          .key_runs = {}};
}

KeyRanges rows_of(const KeyRanges& ranges, std::span<const Slice> rows) {
  return {.first = rows_of(ranges.first, rows),
          .last = rows_of(ranges.last, rows),
          .origin = rows_of(ranges.origin, rows),
          .fork = rows_of(ranges.fork, rows),
          .jump = rows_of(ranges.jump, rows)};
}

}  // namespace moesaic::data
