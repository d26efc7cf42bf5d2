// The memory pool that tensors come from.
#include "backend/memory_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "backend/cpu/host_memory.h"
#include "base/error.h"
#include "tensor/rng.h"

namespace moesaic::cpu {
namespace {

constexpr std::size_t kMib = std::size_t{1} << 20U;

// Bytes of this process that are in memory.
std::size_t resident() {
  std::ifstream file("/proc/self/statm");
  std::size_t all = 0, pages = 0;
  file >> all >> pages;
  return pages * 4096;
}

// Protects: a block of a size that was given back is used again, by blocks of other sizes too.
TEST(MemoryPool, ReusesBlocks) {
  MemoryPool memory_pool(host_memory());
  const void* const first = memory_pool.take(kMib).get();
  EXPECT_EQ(memory_pool.take(kMib).get(), first);
  const auto half = memory_pool.take(kMib / 2);
  const auto rest = memory_pool.take(kMib / 2 - 4096);
  EXPECT_EQ(half.get(), first);
  EXPECT_LT(rest.get(), static_cast<const std::byte*>(first) + kMib);
  EXPECT_LT(memory_pool.bytes_held(), kMib + 4096);
}

// Protects: neighbours that are free become one block.
TEST(MemoryPool, JoinsWhatIsFree) {
  MemoryPool memory_pool(host_memory());
  std::vector<std::shared_ptr<void>> blocks(8);
  std::generate(blocks.begin(), blocks.end(), [&] { return memory_pool.take(kMib); });
  const void* const first = blocks.front().get();
  for (const std::size_t i : {0U, 2U, 1U, 5U, 3U, 4U, 7U, 6U}) {  // every order of neighbours
    blocks[i].reset();
  }
  const std::size_t held = memory_pool.bytes_held();
  EXPECT_EQ(memory_pool.take(8 * kMib).get(), first);
  EXPECT_EQ(memory_pool.bytes_held(), held);
}

// Protects: blocks do not overlap, and lie on borders of 64 bytes.
TEST(MemoryPool, BlocksAreApart) {
  MemoryPool memory_pool(host_memory());
  const Rng rng(3, hash_name("sizes"));
  struct Block {
    std::shared_ptr<void> memory;
    std::size_t bytes;
    int mark;
  };
  std::vector<Block> live;
  for (int i = 0; i < 2000; ++i) {
    const auto n = static_cast<std::uint64_t>(i);
    const auto bytes = static_cast<std::size_t>(rng.uniform(2 * n) * 30000.0);
    live.push_back({memory_pool.take(bytes), bytes, i % 251});
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(live.back().memory.get()) % 64, 0U);
    std::memset(live.back().memory.get(), live.back().mark, bytes);
    if (live.size() > 40) {
      const auto which = static_cast<std::size_t>(rng.uniform(2 * n + 1) * 40.0);
      const auto* const value = static_cast<const unsigned char*>(live[which].memory.get());
      EXPECT_TRUE(std::all_of(value, value + live[which].bytes,
                              [&](unsigned char v) { return v == live[which].mark; }));
      live.erase(live.begin() + static_cast<std::ptrdiff_t>(which));
    }
  }
}

// Rows that this rank's experts get in a layer, of 4096 choices: half of them more or less.
std::size_t uneven_rows(const Rng& rng, std::uint64_t draw) {
  return static_cast<std::size_t>(1024.0 + rng.uniform(draw) * 2048.0);
}

// Protects: loads that change with each step do not make the process grow. Blocks as of a training
// step: forward keeps some of each layer, and backward lets go of them in turn.
TEST(MemoryPool, HoldsLittleMoreThanWasInUse) {
  MemoryPool memory_pool(host_memory());
  const Rng rng(1, hash_name("loads"));
  const auto weights = memory_pool.take(40 * kMib);
  std::memset(weights.get(), 1, 40 * kMib);
  const std::size_t before = resident();
  std::uint64_t draw = 0;
  const auto touched = [&](std::size_t bytes) {
    auto block = memory_pool.take(bytes);
    std::memset(block.get(), 1, bytes);
    return block;
  };
  constexpr std::size_t kLayers = 6, kWidth = 512;
  for (int step = 0; step < 60; ++step) {
    std::vector<std::vector<std::shared_ptr<void>>> kept(kLayers);
    std::vector<std::size_t> rows(kLayers);
    for (std::size_t layer = 0; layer < kLayers; ++layer) {
      rows[layer] = uneven_rows(rng, draw++);
      const auto sent = touched(4096 * kWidth);
      for (const std::size_t of_row : {kWidth, 2 * kWidth, kWidth}) {
        kept[layer].push_back(touched(rows[layer] * of_row));
        const auto passing = touched(rows[layer] * kWidth / 2);
      }
      kept[layer].push_back(touched(2048 * kWidth));
    }
    for (std::size_t layer = kLayers; layer-- > 0;) {
      const auto gradient = touched(rows[layer] * kWidth);
      const auto wider = touched(rows[layer] * 2 * kWidth);
      kept[layer].clear();
    }
    const std::size_t most = memory_pool.most_in_use();
    ASSERT_LE(memory_pool.bytes_held(), most + MemoryPool::bound(most)) << "step " << step;
    // An eighth more: a sanitizer's own memory.
    ASSERT_LE(resident() - before, (most - 40 * kMib + MemoryPool::bound(most) + kMib) * 9 / 8)
        << "step " << step;
  }
  EXPECT_GT(memory_pool.most_in_use(), 70 * kMib);
}

// Protects the same where nothing fits into what was free: ever larger blocks, one at a time.
TEST(MemoryPool, LargerBlocksReplaceSmallerOnes) {
  MemoryPool memory_pool(host_memory());
  std::vector<std::shared_ptr<void>> apart;
  for (std::size_t i = 1; i <= 64; ++i) {
    memory_pool.take(i * kMib);
    apart.push_back(memory_pool.take(64));  // keeps free blocks from being joined
  }
  const std::size_t most = memory_pool.most_in_use();
  EXPECT_GE(most, 64 * kMib);
  EXPECT_LE(most, 64 * kMib + std::size_t{64} * 256);
  EXPECT_LE(memory_pool.bytes_held(), most + MemoryPool::bound(most));
}

// Protects what loading went through from staying: the reserve goes, and what was in use then no
// longer counts.
TEST(MemoryPool, ReleasesItsReserve) {
  MemoryPool memory_pool(host_memory());
  const auto kept = memory_pool.take(kMib);
  const std::size_t alone = memory_pool.bytes_held();
  {
    const auto passing = memory_pool.take(32 * kMib);
    std::memset(passing.get(), 1, 32 * kMib);
  }
  const std::size_t before = resident();
  memory_pool.release_reserve();
  EXPECT_LT(resident() + 31 * kMib, before);
  EXPECT_EQ(memory_pool.bytes_held(), alone);
  EXPECT_EQ(memory_pool.most_in_use(), alone);
}

// Protects: where memory runs out, what is held of other sizes is given up before the job is.
TEST(MemoryPool, GivesUpItsReserveFirst) {
  MemoryPool memory_pool(host_memory());
  memory_pool.take(kMib);
  EXPECT_THROW(memory_pool.take(std::size_t{1} << 60U), Error);
  EXPECT_EQ(memory_pool.bytes_held(), 0U);
  EXPECT_NE(memory_pool.take(kMib), nullptr);
}

// Protects blocks in use where a free one between them lies within a page while memory runs out.
TEST(MemoryPool, GivesUpWholePagesOnly) {
  constexpr std::size_t kSmall = 64;
  MemoryPool memory_pool(host_memory());
  std::vector<std::shared_ptr<void>> blocks;
  for (int i = 0; i < 200; ++i) {  // a few pages
    blocks.push_back(memory_pool.take(kSmall));
  }
  for (std::size_t i = 1; i < blocks.size(); i += 2) {
    blocks[i].reset();
  }
  EXPECT_THROW(memory_pool.take(std::size_t{1} << 60U), Error);
  for (std::size_t i = 1; i < blocks.size(); i += 2) {
    blocks[i] = memory_pool.take(kSmall);
  }
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    std::memset(blocks[i].get(), static_cast<int>(i), kSmall);
  }
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const auto* const bytes = static_cast<const unsigned char*>(blocks[i].get());
    EXPECT_TRUE(std::all_of(bytes, bytes + kSmall, [&](unsigned char b) { return b == i; })) << i;
  }
}

// Protects: a block outlives the pool.
TEST(MemoryPool, BlocksOutliveIt) {
  std::shared_ptr<void> block;
  {
    MemoryPool memory_pool(host_memory());
    block = memory_pool.take(kMib);
  }
  std::memset(block.get(), 1, kMib);
  block.reset();
}

}  // namespace
}  // namespace moesaic::cpu
