// The memory pool that tensors come from.
#include "backend/cpu/memory_pool.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace moesaic::cpu {
namespace {

// Protects: a block of a size that was given back is used again.
TEST(MemoryPool, ReusesBlocks) {
  MemoryPool memory_pool;
  const void* const first = memory_pool.take(std::size_t{1} << 20U).get();
  EXPECT_EQ(memory_pool.take(std::size_t{1} << 20U).get(), first);
  EXPECT_GE(memory_pool.bytes_held(), std::size_t{1} << 20U);
}

// Protects: where memory runs out, what is held of other sizes is given up before the job is.
TEST(MemoryPool, GivesUpItsReserveFirst) {
  MemoryPool memory_pool;
  memory_pool.take(std::size_t{1} << 20U);
  EXPECT_THROW(memory_pool.take(std::size_t{1} << 60U), Error);
  EXPECT_EQ(memory_pool.bytes_held(), 0U);
}

}  // namespace
}  // namespace moesaic::cpu
