// Every call, each way; over MPI with more elements than one of its calls counts, as their limit is
// a few here.
#include "comm/collectives.h"

#include <gtest/gtest.h>

#include <numeric>

#include "backend/transfer.h"
#include "comm/mesh.h"
#include "mpi/comm/ways.h"

namespace moesaic::comm {
namespace {

class CollectivesTest : public testing::TestWithParam<Way> {
 protected:
  CollectivesTest() {
    backend_ = GetParam().backend();
    world_.record_in(nullptr, Group::kCp);  // the kind in which all send each other messages
    group_ = GetParam().make(*backend_, world_)(world_);
  }
  // Rank r's element i is factor (100 r + i), so that no two are alike.
  Tensor values(const Shape& shape, float factor = 1.0F) const {
    std::vector<float> elements(static_cast<std::size_t>(shape.numel()));
    std::iota(elements.begin(), elements.end(), 100.0F * static_cast<float>(world_.rank()));
    for (float& x : elements) {
      x *= factor;
    }
    return to_device(*backend_, elements, shape);
  }
  std::vector<float> floats(const Tensor& tensor) const { return to_host_f32(*backend_, tensor); }
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
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Collectives> group_;
};

INSTANTIATE_TEST_SUITE_P(Ways, CollectivesTest, testing::ValuesIn(ways()),
                         [](const auto& way) { return way.param.name; });

// Protects: every element of a large sum is summed once.
TEST_P(CollectivesTest, AllReduce) {
  const Tensor inout = values({23});
  group_->start_all_reduce_sum(inout);
  group_->finish();
  for (std::size_t i = 0; i < 23; ++i) {
    EXPECT_EQ(floats(inout)[i], summed(i)) << i;
  }
}

// Protects buckets of ZeRO: the owner of a share has its sum, and all ranks get all shares.
TEST_P(CollectivesTest, SharesOfABucket) {
  const Tensor inout = values({23});
  const std::vector<std::int64_t> counts = shares();
  group_->start_reduce_scatter(inout, counts);
  group_->finish();
  const std::size_t begin = begin_of(world_.rank());
  const auto own = static_cast<std::size_t>(counts[static_cast<std::size_t>(world_.rank())]);
  for (std::size_t i = begin; i < begin + own; ++i) {
    EXPECT_EQ(floats(inout)[i], summed(i)) << i;
  }
  group_->all_gather_shares(inout, counts);
  for (std::size_t i = 0; i < 23; ++i) {
    EXPECT_EQ(floats(inout)[i], summed(i)) << i;
  }
}

// Protects rows that are split over tp.
TEST_P(CollectivesTest, ReduceScatterOfRows) {
  const Tensor whole = values({23, 3});
  const Tensor mine = group_->reduce_scatter(whole, shares());
  const std::size_t begin = 3 * begin_of(world_.rank());
  const std::vector<float> rows = floats(mine);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i], summed(begin + i)) << i;
  }
}

// Protects rows that are split over tp, of any type, when they come together again.
TEST_P(CollectivesTest, AllGatherOfRows) {
  const std::vector<std::int64_t> counts = shares();
  const auto own = static_cast<std::size_t>(world_.rank());
  const Tensor whole = group_->all_gather(values({counts[own], 3}), counts);
  std::size_t i = 0;
  for (int rank = 0; rank < world_.size(); ++rank) {
    for (std::int64_t n = 0; n < 3 * counts[static_cast<std::size_t>(rank)]; ++n) {
      EXPECT_EQ(floats(whole)[i++], 100.0F * static_cast<float>(rank) + static_cast<float>(n));
    }
  }
  EXPECT_EQ(static_cast<std::int64_t>(i), whole.numel());
}

// Protects equal shares, which have calls of their own.
TEST_P(CollectivesTest, EqualShares) {
  const auto ranks = static_cast<std::size_t>(world_.size());
  const std::vector<std::int64_t> counts(ranks, 2);
  const Tensor inout = values({2 * world_.size()});
  group_->start_reduce_scatter(inout, counts);
  group_->finish();
  group_->all_gather_shares(inout, counts);
  const Tensor mine = group_->reduce_scatter(values({2 * world_.size(), 3}), counts);
  for (std::size_t i = 0; i < 2 * ranks; ++i) {
    EXPECT_EQ(floats(inout)[i], summed(i)) << i;
  }
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(floats(mine)[i], summed(6 * static_cast<std::size_t>(world_.rank()) + i)) << i;
  }
}

TEST_P(CollectivesTest, Largest) {
  const std::vector<std::int32_t> own = {world_.rank(), -world_.rank()};
  const Tensor inout = to_device(*backend_, own, {2});
  group_->all_reduce_max(inout);
  EXPECT_EQ(to_host_i32(*backend_, inout), (std::vector<std::int32_t>{world_.size() - 1, 0}));
}

// Protects dispatch: rank r sends s + r rows of its number to rank s, and says so before.
TEST_P(CollectivesTest, AllToAll) {
  const int ranks = world_.size(), own = world_.rank();
  std::vector<std::int32_t> counts;
  std::vector<std::int64_t> send_rows, recv_rows;
  std::int64_t rows = 0;
  for (int s = 0; s < ranks; ++s) {
    counts.insert(counts.end(), {s + own, 10 * own});
    send_rows.push_back(s + own);
    rows += s + own;
  }
  const std::vector<std::int64_t> arrived =
      group_->exchange_counts(to_device(*backend_, counts, {ranks, 2}));
  ASSERT_EQ(std::ssize(arrived), 2 * ranks);
  for (int r = 0; r < ranks; ++r) {
    EXPECT_EQ(arrived[2 * static_cast<std::size_t>(r)], own + r);
    EXPECT_EQ(arrived[2 * static_cast<std::size_t>(r) + 1], 10 * r);
    recv_rows.push_back(arrived[2 * static_cast<std::size_t>(r)]);
  }
  const std::vector<float> sent(2 * static_cast<std::size_t>(rows), static_cast<float>(own));
  const Tensor send = to_device(*backend_, sent, {rows, 2});
  Exchange exchange = group_->start_all_to_all(send, send_rows, recv_rows);
  const Tensor recv = group_->finish(std::move(exchange));
  std::size_t i = 0;
  for (int r = 0; r < ranks; ++r) {
    for (std::int64_t n = 0; n < 2 * recv_rows[static_cast<std::size_t>(r)]; ++n) {
      EXPECT_EQ(floats(recv)[i++], static_cast<float>(r));
    }
  }
  EXPECT_EQ(static_cast<std::int64_t>(i), recv.numel());
}

// Protects context parallelism: messages both ways at once, those of the other parity in between.
TEST_P(CollectivesTest, CrossedMessages) {
  for (int to = 0; to < world_.size(); ++to) {
    for (const int tag : {0, 1, 2}) {
      if (to != world_.rank()) {
        group_->start_send(values({40}, static_cast<float>(tag + 1)), to, tag);
      }
    }
  }
  std::vector<std::pair<Message, int>> arriving;
  for (int from = 0; from < world_.size(); ++from) {
    for (const int tag : {1, 0, 2}) {
      if (from != world_.rank()) {
        arriving.emplace_back(group_->start_receive(backend_->empty(DType::kF32, {40}), from, tag),
                              100 * from * (tag + 1));
      }
    }
  }
  for (auto& [message, first] : arriving) {
    const Tensor received = message.tensor;
    group_->finish(std::move(message));
    EXPECT_EQ(floats(received)[0], static_cast<float>(first));
  }
  group_->finish();
}

// Protects pipelines: two large messages of one tag arrive whole and in order.
TEST_P(CollectivesTest, Messages) {
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
      EXPECT_EQ(floats(received)[static_cast<std::size_t>(i)],
                100.0F * static_cast<float>(from) + static_cast<float>(i));
    }
  }
  group_->finish();
}

}  // namespace
}  // namespace moesaic::comm
