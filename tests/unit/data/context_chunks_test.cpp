// Rows of a micro-batch over the ranks of cp: every row has one rank, cut at key tiles, evenly.
#include "data/context_chunks.h"

#include <gtest/gtest.h>

#include "backend/backend.h"

namespace moesaic::data {
namespace {

TEST(ContextChunks, EveryRowHasOneRank) {
  for (const std::int64_t rows : {0, 1, 63, 64, 65, 300, 512, 1000, 4096}) {
    for (int ranks = 1; ranks <= 9; ++ranks) {
      std::vector<int> holders(static_cast<std::size_t>(rows), 0);
      for (int rank = 0; rank < ranks; ++rank) {
        std::int64_t last = -1;
        for (const Slice part : context_rows(rows, rank, ranks)) {
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
    const std::vector<Slice> own = context_rows(kRows, rank, kRanks);
    ASSERT_EQ(own.size(), 2U);
    EXPECT_EQ(own[0].begin, rank * 2 * kKeyTile);
    EXPECT_EQ(own[1].end(), kRows - rank * 2 * kKeyTile);
    EXPECT_EQ(own[0].end() + own[1].end(), kRows + 2 * kKeyTile) << "keys seen, the same for all";
  }
  EXPECT_EQ(most_context_rows(kRows, kRanks), kRows / kRanks);
}

TEST(ContextChunks, FewTilesLeaveRanksWithoutRows) {
  EXPECT_EQ(context_chunks(100, 4).size(), 2U);
  EXPECT_TRUE(context_rows(100, 2, 4).empty());
  EXPECT_EQ(most_context_rows(100, 4), 64);
}

}  // namespace
}  // namespace moesaic::data
