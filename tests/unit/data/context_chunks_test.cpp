// Rows of a micro-batch over the ranks of cp: every row has one rank, cut at key tiles, evenly.
#include "data/context_chunks.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "backend/backend.h"

namespace moesaic::data {
namespace {

std::vector<Slice> rows_of_rank(std::int64_t rows, int rank, int ranks) {
  return chunks_of_rank(context_chunks(rows, ranks), rank, ranks);
}

TEST(ContextChunks, EveryRowHasOneRank) {
  for (const std::int64_t rows : {0, 1, 63, 64, 65, 300, 512, 1000, 4096}) {
    for (int ranks = 1; ranks <= 9; ++ranks) {
      std::vector<int> holders(static_cast<std::size_t>(rows), 0);
      for (int rank = 0; rank < ranks; ++rank) {
        std::int64_t last = -1;
        for (const Slice part : rows_of_rank(rows, rank, ranks)) {
          EXPECT_GT(part.begin, last) << "in order of position";
          EXPECT_EQ(part.begin % kKeyTile, 0);
          EXPECT_GT(part.count, 0);
          last = part.begin;
          for (std::int64_t row = part.begin; row < part.end(); ++row) {
            ++holders[static_cast<std::size_t>(row)];
          }
        }
      }
      EXPECT_EQ(holders, std::vector<int>(static_cast<std::size_t>(rows), 1))
          << rows << " rows on " << ranks;
    }
  }
}

TEST(ContextChunks, ZigzagSharesCausalWork) {
  constexpr int kRanks = 4;
  constexpr std::int64_t kRows = 8 * 2 * kKeyTile;
  for (int rank = 0; rank < kRanks; ++rank) {
    const std::vector<Slice> own = rows_of_rank(kRows, rank, kRanks);
    ASSERT_EQ(own.size(), 2U);
    EXPECT_EQ(own[0].begin, rank * 2 * kKeyTile);
    EXPECT_EQ(own[1].end(), kRows - rank * 2 * kKeyTile);
    EXPECT_EQ(own[0].end() + own[1].end(), kRows + 2 * kKeyTile) << "keys seen, the same for all";
  }
  EXPECT_EQ(most_context_rows(kRows, kRanks), kRows / kRanks);
}

TEST(ContextChunks, FewTilesLeaveRanksWithoutRows) {
  EXPECT_EQ(context_chunks(100, 4).size(), 2U);
  EXPECT_TRUE(rows_of_rank(100, 2, 4).empty());
  EXPECT_EQ(most_context_rows(100, 4), 64);
}

// Sequences that begin anywhere are cut at tiles of their own.
TEST(ContextChunks, CutsAtTilesOfEachSequence) {
  constexpr std::int64_t kRows = 700;
  const std::vector<std::int32_t> begins = {0, 37, 38, 300, 333};
  std::vector<std::int32_t> origin;
  for (std::int32_t row = 0; row < kRows; ++row) {
    origin.push_back(*(std::upper_bound(begins.begin(), begins.end(), row) - 1));
  }
  for (int ranks = 2; ranks <= 6; ++ranks) {
    std::int64_t end = 0;
    for (const Slice chunk : context_chunks(kRows, ranks, origin)) {
      EXPECT_EQ(chunk.begin, end);
      EXPECT_GT(chunk.count, 0);
      EXPECT_EQ((chunk.begin - origin[static_cast<std::size_t>(chunk.begin)]) % kKeyTile, 0);
      end = chunk.end();
    }
    EXPECT_EQ(end, kRows);
  }
}

// A chunk goes to those whose rows see keys in it, and to nobody else.
TEST(ContextChunks, Readers) {
  constexpr std::int64_t kRows = 8 * kKeyTile;
  MicroBatch batch;
  batch.token.resize(kRows);
  batch.first_key.resize(kRows, 0);
  const std::vector<Slice> chunks = context_chunks(kRows, 2);  // ranks 0, 1, 1, 0
  using Lists = std::vector<std::vector<int>>;
  EXPECT_EQ(context_readers(key_ranges(batch, 0), chunks, 2), (Lists{{0, 1}, {0, 1}, {0, 1}, {0}}));
  EXPECT_EQ(context_readers(key_ranges(batch, 1), chunks, 2), (Lists{{0}, {1}, {1}, {0}}));
  for (std::int64_t row = 4 * kKeyTile; row < kRows; ++row) {  // a second document
    batch.first_key[static_cast<std::size_t>(row)] = 4 * kKeyTile;
  }
  EXPECT_EQ(context_readers(key_ranges(batch, 0), chunks, 2), (Lists{{0, 1}, {1}, {0, 1}, {0}}));
}

}  // namespace
}  // namespace moesaic::data
