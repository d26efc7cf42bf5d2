// Sums, shares and messages of more elements than one MPI call counts, with a limit of few
// elements.
#include "comm/collectives.h"

#include <gtest/gtest.h>

#include <numeric>

#include "backend/backend.h"
#include "comm/mesh.h"

namespace moesaic::comm {
namespace {

constexpr std::size_t kMost = 5;

class Pieces : public testing::Test {
 protected:
  // Rank r's element i is 100 r + i, so that no two are alike.
  Tensor values(const Shape& shape) const {
    Tensor values = backend_->empty(DType::kF32, shape);
    const std::span<float> elements = values.as<float>();
    std::iota(elements.begin(), elements.end(), 100.0F * static_cast<float>(world_.rank()));
    return values;
  }
  // Element i of the sum of all ranks' values.
  float summed(std::size_t i) const {
    const int n = world_.size();
    return 100.0F * static_cast<float>(n * (n - 1) / 2) +
           static_cast<float>(n) * static_cast<float>(i);
  }
  // Shares of 23 elements: rank 0 has most, the last rank none if there are others.
  std::vector<std::int64_t> shares() const {
    std::vector<std::int64_t> counts(static_cast<std::size_t>(world_.size()), 0);
    counts[0] = 23;
    for (int r = 1; r + 1 < world_.size(); ++r) {
      counts[static_cast<std::size_t>(r)] = 6;
      counts[0] -= 6;
    }
    return counts;
  }
  std::size_t begin_of(int rank) const {
    const auto counts = shares();
    return static_cast<std::size_t>(
        std::accumulate(counts.begin(), counts.begin() + rank, std::int64_t{0}));
  }

  Communicator world_ = Communicator::world();
  std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
  std::unique_ptr<Collectives> group_ = make_mpi_collectives(*backend_, world_, kMost);
};

// Protects: every element of a large sum is summed once.
TEST_F(Pieces, AllReduce) {
  const Tensor inout = values({23});
  group_->start_all_reduce_sum(inout);
  group_->finish();
  for (std::size_t i = 0; i < 23; ++i) {
    EXPECT_EQ(inout.as<float>()[i], summed(i)) << i;
  }
}

// Protects buckets of ZeRO: the owner of a share has its sum, and all ranks get all shares.
TEST_F(Pieces, SharesOfABucket) {
  const Tensor inout = values({23});
  const std::vector<std::int64_t> counts = shares();
  group_->start_reduce_scatter(inout, counts);
  group_->finish();
  const std::size_t begin = begin_of(world_.rank());
  const auto own = static_cast<std::size_t>(counts[static_cast<std::size_t>(world_.rank())]);
  for (std::size_t i = begin; i < begin + own; ++i) {
    EXPECT_EQ(inout.as<float>()[i], summed(i)) << i;
  }
  group_->all_gather_shares(inout, counts);
  for (std::size_t i = 0; i < 23; ++i) {
    EXPECT_EQ(inout.as<float>()[i], summed(i)) << i;
  }
}

// Protects rows that are split over tp.
TEST_F(Pieces, ReduceScatterOfRows) {
  const Tensor whole = values({23, 3});
  const Tensor mine = group_->reduce_scatter(whole, shares());
  const std::size_t begin = 3 * begin_of(world_.rank());
  const std::span<const float> rows = mine.as<float>();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i], summed(begin + i)) << i;
  }
}

// Protects pipelines: two large messages of one tag arrive whole and in order.
TEST_F(Pieces, Messages) {
  if (world_.size() == 1) {
    return;
  }
  const int to = (world_.rank() + 1) % world_.size();
  const int from = (world_.rank() + world_.size() - 1) % world_.size();
  const Tensor first = values({23});
  const Tensor second = values({7});
  group_->start_send(first, to, 1);
  group_->start_send(second, to, 1);
  for (const std::int64_t size : {23, 7}) {
    const Tensor received = backend_->empty(DType::kF32, {size});
    group_->receive(received, from, 1);
    for (std::int64_t i = 0; i < size; ++i) {
      EXPECT_EQ(received.as<float>()[static_cast<std::size_t>(i)],
                100.0F * static_cast<float>(from) + static_cast<float>(i));
    }
  }
  group_->finish();
}

}  // namespace
}  // namespace moesaic::comm
