// The pool that tensors take their memory from.
#include <gtest/gtest.h>

#include "backend/cpu/pool.h"
#include "base/error.h"

namespace moesaic::cpu {
namespace {

// Protects: a block of a size that was given back is used again.
TEST(Pool, ReusesBlocks) {
  Pool pool;
  const void* const first = pool.take(std::size_t{1} << 20U).get();
  EXPECT_EQ(pool.take(std::size_t{1} << 20U).get(), first);
  EXPECT_GE(pool.bytes_held(), std::size_t{1} << 20U);
}

// Protects: where memory runs out, what is held of other sizes is given up before the job is.
TEST(Pool, GivesUpItsReserveFirst) {
  Pool pool;
  pool.take(std::size_t{1} << 20U);
  EXPECT_THROW(pool.take(std::size_t{1} << 60U), Error);
  EXPECT_EQ(pool.bytes_held(), 0U);
}

}  // namespace
}  // namespace moesaic::cpu
