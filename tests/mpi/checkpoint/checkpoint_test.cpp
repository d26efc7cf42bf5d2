#include "checkpoint/checkpoint.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "comm/communicator.h"
#include "support/shared_dir.h"

namespace moesaic::checkpoint {
namespace {

namespace fs = std::filesystem;
using moesaic::testing::SharedDir;

constexpr std::int64_t kRows = 12, kCols = 10;

/// The share [begin, end) of `total` that is rank's.
std::pair<std::int64_t, std::int64_t> share(std::int64_t total, const comm::Communicator& group) {
  return {total * group.rank() / group.size(), total * (group.rank() + 1) / group.size()};
}

/// Rows of "rows" and columns of "columns" are spread over the group; "whole" is the last rank's.
void save(const fs::path& dir, const comm::Communicator& group) {
  const auto [row, row_end] = share(kRows, group);
  const auto [col, col_end] = share(kCols, group);
  std::vector<float> rows, columns;
  for (std::int64_t i = row * kCols; i < row_end * kCols; ++i) {
    rows.push_back(static_cast<float>(i));
  }
  for (std::int64_t i = 0; i < kRows; ++i) {
    for (std::int64_t j = col; j < col_end; ++j) {
      columns.push_back(static_cast<float>(i * kCols + j));
    }
  }
  std::vector<BlockToSave> blocks{
      {"rows", {kRows, kCols}, {row, 0}, {row_end - row, kCols}, given(rows)},
      {"exp_avg/columns", {kRows, kCols}, {0, col}, {kRows, col_end - col}, given(columns)}};
  const std::vector<float> whole{1, 2, 3};
  if (group.rank() == group.size() - 1) {
    blocks.push_back({"whole", {3}, {0}, {3}, given(whole)});
  }
  const Json state{{"ranks", group.size()}};
  EXPECT_EQ(save_checkpoint({dir, 5, state, {}}, blocks, group), dir / "step-00000005");
}

void expect_region(CheckpointReader& reader, const std::string& name, std::int64_t row,
                   std::int64_t rows, std::int64_t col, std::int64_t cols) {
  std::vector<float> values(static_cast<std::size_t>(rows * cols), -1.0F);
  reader.read(name, {row, col}, {rows, cols}, values);
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    const std::int64_t whole_row = row + i / cols;
    EXPECT_EQ(values[static_cast<std::size_t>(i)],
              static_cast<float>(whole_row * kCols + col + i % cols));
  }
}

// Saved by 1, 2, ... ranks, read by all of them in shares that cut across the blocks.
TEST(Checkpoint, AnyLayoutReadsAnyOther) {
  const auto world = comm::Communicator::world();
  for (int savers = 1; savers <= world.size(); savers *= 2) {
    const SharedDir dir;
    comm::Communicator group = world.split(world.rank() < savers ? 0 : 1, world.rank());
    if (world.rank() < savers) {
      save(dir.path, group);
    }
    world.barrier();
    EXPECT_EQ(verify_checkpoint(dir.path), std::vector<std::string>{});
    CheckpointReader reader = CheckpointReader::open(dir.path);
    EXPECT_EQ(reader.state().at("ranks"), savers);
    const auto [row, row_end] = share(kRows, world);
    const auto [col, col_end] = share(kCols, world);
    for (const char* name : {"rows", "exp_avg/columns"}) {
      expect_region(reader, name, row, row_end - row, 0, kCols);
      expect_region(reader, name, 0, kRows, col, col_end - col);
      expect_region(reader, name, 1, kRows - 2, 1, kCols - 2);
    }
    world.barrier();
    group.close();
  }
}

// A rank that cannot write fails the save on every rank alike, and the next save works.
TEST(Checkpoint, OneRankFails) {
  const auto world = comm::Communicator::world();
  const SharedDir dir;
  const std::vector<float> values{1, 2};
  const bool last = world.rank() == world.size() - 1;
  // The last rank's block claims more values than it has.
  const std::vector<BlockToSave> blocks{{fmt::format("w{}", world.rank()),
                                         {2},
                                         {0},
                                         {2},
                                         given(std::span(values).first(last ? 1 : 2))}};
  const Json state;
  EXPECT_THROW(save_checkpoint({dir.path, 5, state, {}}, blocks, world), comm::AgreedError);
  EXPECT_TRUE(fs::is_empty(dir.path));
  world.barrier();
  save(dir.path, world);
  EXPECT_EQ(complete_checkpoints(dir.path).size(), 1U);
  world.barrier();
}

}  // namespace
}  // namespace moesaic::checkpoint
