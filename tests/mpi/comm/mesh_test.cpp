// The ranks of each group of a mesh.
#include "comm/mesh.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace moesaic::comm {
namespace {

using Ranks = std::vector<std::int64_t>;

// Collective: the world ranks of a group, and what the ledger takes them for.
Ranks ranks_of(const Mesh& mesh, Group group, const Ledger& ledger) {
  const std::int64_t own = mesh.world.rank();
  Ranks ranks = mesh[group].all_gather(std::span(&own, 1));
  if (ranks.size() > 1) {
    const Members members = ledger.standing().parts[index_of(group)].members;
    Ranks recorded(static_cast<std::size_t>(members.count));
    for (std::size_t i = 0; i < recorded.size(); ++i) {
      recorded[i] = members.rank(static_cast<int>(i));
    }
    EXPECT_EQ(recorded, ranks) << row_of(group).name << ": " << members.text();
  }
  return ranks;
}

// The ranks from `first` to before `end`, each `step`th.
Ranks every(std::int64_t first, std::int64_t end, std::int64_t step) {
  Ranks ranks;
  for (; first < end; first += step) {
    ranks.push_back(first);
  }
  return ranks;
}

// Protects: which ranks sum which gradients, share out a micro-batch, and compute different ones.
TEST(Mesh, TwoOfEachInnerAxis) {
  Ledger ledger;
  if (Communicator::world().size() % 8 != 0) {
    GTEST_SKIP() << "needs a multiple of 8 ranks";
  }
  Mesh mesh = Mesh::make({.tp = 2, .ep = 2, .cp = 2}, &ledger);
  const std::int64_t rank = mesh.world.rank();
  const std::int64_t tp = rank % 2, ep = rank / 2 % 2, cp = rank / 4 % 2, dp = rank / 8;
  const std::int64_t size = mesh.world.size();
  EXPECT_EQ(mesh.layout.dp, size / 8);
  EXPECT_EQ(ranks_of(mesh, Group::kTp, ledger), every(rank - tp, rank - tp + 2, 1));
  EXPECT_EQ(ranks_of(mesh, Group::kEp, ledger), (Ranks{rank - 2 * ep, rank - 2 * ep + 2}));
  EXPECT_EQ(ranks_of(mesh, Group::kEpTp, ledger), every(rank / 4 * 4, rank / 4 * 4 + 4, 1));
  EXPECT_EQ(ranks_of(mesh, Group::kCp, ledger), (Ranks{rank - 4 * cp, rank - 4 * cp + 4}));
  EXPECT_EQ(ranks_of(mesh, Group::kDp, ledger), every(2 * ep + tp, size, 4));
  EXPECT_EQ(ranks_of(mesh, Group::kReplicas, ledger), every(tp, size, 2));
  EXPECT_EQ(ranks_of(mesh, Group::kStage, ledger), every(0, size, 1));
  EXPECT_EQ(ranks_of(mesh, Group::kPp, ledger), Ranks{rank});
  Ranks batches;  // in the order of their micro-batches: dp, then ep
  for (std::int64_t first = 4 * cp + tp; first < size; first += 8) {
    batches.insert(batches.end(), {first, first + 2});
  }
  EXPECT_EQ(ranks_of(mesh, Group::kBatches, ledger), batches);
  EXPECT_EQ(mesh[Group::kBatches].rank(), 2 * dp + ep);
  EXPECT_EQ(mesh.counts(), tp == 0 && cp == 0);
  EXPECT_EQ(mesh.reports(), tp == 0);
  mesh.close();
}

// Protects pipelines beside cp: a stage has its own groups, and sends to the same place of the
// next.
TEST(Mesh, StagesOfCp) {
  const int size = Communicator::world().size();
  if (size % 4 != 0) {
    GTEST_SKIP() << "needs a multiple of 4 ranks";
  }
  Ledger ledger;
  Mesh mesh = Mesh::make({.pp = 2, .cp = 2}, &ledger);
  const std::int64_t rank = mesh.world.rank(), half = size / 2, stage = rank / half;
  EXPECT_EQ(ranks_of(mesh, Group::kPp, ledger), (Ranks{rank % half, rank % half + half}));
  EXPECT_EQ(ranks_of(mesh, Group::kCp, ledger), every(rank / 2 * 2, rank / 2 * 2 + 2, 1));
  EXPECT_EQ(ranks_of(mesh, Group::kDp, ledger), every(stage * half, stage * half + half, 1));
  EXPECT_EQ(ranks_of(mesh, Group::kBatches, ledger),
            every(stage * half + rank % 2, stage * half + half, 2));
  EXPECT_EQ(mesh.reports(), stage == 1);
  EXPECT_EQ(mesh.counts(), rank % 2 == 0);
  mesh.close();
}

// Protects: ranks that cannot be arranged are refused with a number that can.
TEST(Mesh, RefusesRanksThatDoNotDivide) {
  const int size = Communicator::world().size();
  try {
    Mesh::make({.cp = size + 1});
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::kUsage);
    const std::string most = std::to_string(size + 1);
    EXPECT_EQ(error.what(), std::to_string(size) +
                                " ranks cannot be arranged as tp=1 pp=1 ep=1 cp=" + most +
                                " x dp: start a multiple of " + most + " ranks");
  }
}

// Protects the picture: one line for each stage, dp and cp, and none of cp where it is 1.
TEST(Mesh, Figure) {
  using Rows = std::vector<std::vector<std::string>>;
  EXPECT_EQ((Layout{.tp = 2, .ep = 2, .dp = 2}.rows()),
            (Rows{{"mesh", "tp=2 pp=1 ep=2 dp=2"},
                  {"  stage 0 dp 0", "ranks [0 1] [2 3]"},
                  {"  stage 0 dp 1", "ranks [4 5] [6 7]"}}));
  EXPECT_EQ((Layout{.pp = 2, .ep = 2, .cp = 2, .dp = 1}.rows()),
            (Rows{{"mesh", "tp=1 pp=2 ep=2 cp=2 dp=1"},
                  {"  stage 0 dp 0 cp 0", "ranks [0] [1]"},
                  {"  stage 0 dp 0 cp 1", "ranks [2] [3]"},
                  {"  stage 1 dp 0 cp 0", "ranks [4] [5]"},
                  {"  stage 1 dp 0 cp 1", "ranks [6] [7]"}}));
  const Rows many = Layout{.cp = 4, .dp = 8}.rows();
  EXPECT_EQ(many.back(), (std::vector<std::string>{"", "and 16 lines more"}));
}

}  // namespace
}  // namespace moesaic::comm
