// Long messages go in pieces, whose order and sizes these functions decide.
#include "comm/pieces.h"

#include <gtest/gtest.h>

namespace moesaic::comm {
namespace {

// The pieces of a list follow each other, none is too long, and behind the end they are empty.
TEST(Pieces, CoverAList) {
  for (const std::int64_t length : {0, 1, 6, 7, 8, 20}) {
    std::int64_t next = 0;
    for (std::int64_t round = 0; round < 4; ++round) {
      const Piece piece = piece_of(length, round, 7);
      EXPECT_EQ(piece.begin, next);
      EXPECT_LE(piece.size, 7);
      next += piece.size;
    }
    EXPECT_EQ(next, length);
  }
}

// More than 2^31 - 1 elements are some rounds, counted without overflow.
TEST(Pieces, CountRounds) {
  EXPECT_EQ(rounds_of(std::vector<std::vector<int>>{{}, {}}, 7), 0);
  EXPECT_EQ(rounds_of(std::vector<std::vector<int>>{{1}, std::vector<int>(15)}, 7), 3);
  const Piece last = piece_of(6'000'000'000, 2, kMostInMessage);
  EXPECT_EQ(last.begin, 2 * kMostInMessage);
  EXPECT_EQ(last.size, 6'000'000'000 - 2 * kMostInMessage);
}

}  // namespace
}  // namespace moesaic::comm
