#include "data/sample_order.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <utility>

namespace moesaic::data {
namespace {

using Location = std::pair<std::size_t, std::int64_t>;

Location location(SampleOrder& order, std::int64_t n) {
  const SampleDraw at = order.at(n);
  return {at.group, at.index};
}

std::vector<Location> locations(SampleOrder order, std::int64_t first, std::int64_t count) {
  std::vector<Location> all;
  for (std::int64_t n = first; n < first + count; ++n) {
    all.push_back(location(order, n));
  }
  return all;
}

// Protects: skipped samples are never drawn, all others once, wherever a step or a resume begins.
TEST(NextSamples, JumpOverSkipped) {
  const SampleRanges skipped = {{0, 2}, {5, 6}, {6, 9}, {20, 23}};
  using R = SampleRanges;
  EXPECT_EQ(next_samples(0, 4, {}), (R{{0, 4}}));
  EXPECT_EQ(next_samples(0, 4, skipped), (R{{2, 5}, {9, 10}}));
  EXPECT_EQ(next_samples(7, 2, skipped), (R{{9, 11}}));
  EXPECT_EQ(next_samples(15, 5, skipped), (R{{15, 20}}));
  EXPECT_EQ(next_samples(20, 2, skipped), (R{{23, 25}}));
  EXPECT_EQ(next_samples(90, 3, skipped), (R{{90, 93}}));
  for (std::int64_t count = 1; count < 12; ++count) {
    std::vector<std::int64_t> drawn;
    for (std::int64_t cursor = 0; std::ssize(drawn) < 12;) {
      for (const config::SampleRange& range : next_samples(cursor, count, skipped)) {
        for (cursor = range.first; cursor < range.end; ++cursor) {
          drawn.push_back(cursor);
        }
      }
    }
    drawn.resize(12);
    EXPECT_EQ(drawn, (std::vector<std::int64_t>{2, 3, 4, 9, 10, 11, 12, 13, 14, 15, 16, 17}));
  }
}

// Protects: no sample is lost or doubled, for lengths around the powers of the network's width.
TEST(Permuted, IsAPermutation) {
  for (const std::int64_t n : {1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 257, 1000, 4097}) {
    for (const std::uint64_t key : {0ULL, 1ULL, 0xfedcba9876543210ULL}) {
      std::set<std::int64_t> seen;
      for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t value = permuted(i, n, key);
        EXPECT_TRUE(value >= 0 && value < n) << value;
        seen.insert(value);
      }
      EXPECT_EQ(std::ssize(seen), n) << "n = " << n << ", key = " << key;
    }
  }
}

// Protects: the order is mixed; a fixed point is as rare as in a random permutation (one).
TEST(Permuted, Mixes) {
  constexpr std::int64_t kCount = 10000;
  std::int64_t fixed = 0;
  double correlation = 0.0;
  for (std::int64_t i = 0; i < kCount; ++i) {
    const std::int64_t value = permuted(i, kCount, 42);
    fixed += value == i ? 1 : 0;
    const double half = 0.5 * static_cast<double>(kCount);
    correlation += (static_cast<double>(i) - half) * (static_cast<double>(value) - half);
  }
  EXPECT_LT(fixed, 10);
  // For a random permutation it is normal with deviation 1 / sqrt(n).
  EXPECT_LT(std::abs(correlation / (std::pow(static_cast<double>(kCount), 3.0) / 12.0)), 0.05);
}

// Protects: every epoch covers every sample of every corpus once, in an order of its own.
TEST(SampleOrder, EpochsCoverEverySampleOnce) {
  const SampleOrder order({7, 0, 13}, {}, 5);
  std::set<std::vector<Location>> orders;
  for (std::int64_t epoch = 0; epoch < 4; ++epoch) {
    const std::vector<Location> all = locations(order, epoch * 20, 20);
    const std::set<Location> seen(all.begin(), all.end());
    EXPECT_EQ(seen.size(), 20U);
    EXPECT_EQ(*seen.begin(), Location(0, 0));
    EXPECT_EQ(*seen.rbegin(), Location(2, 12));
    EXPECT_FALSE(seen.contains(Location(1, 0)));
    orders.insert(all);
  }
  EXPECT_EQ(orders.size(), 4U);
}

// Protects: data.seed changes the order, with weights and without.
TEST(SampleOrder, SeedsDiffer) {
  for (const std::vector<double>& weights : {std::vector<double>{}, std::vector<double>{1, 2}}) {
    const SampleOrder one({50, 50}, weights, 1);
    const SampleOrder again({50, 50}, weights, 1);
    const SampleOrder two({50, 50}, weights, 2);
    EXPECT_EQ(locations(one, 0, 60), locations(again, 0, 60));
    EXPECT_NE(locations(one, 0, 60), locations(two, 0, 60));
  }
}

// Protects: shares follow the weights, not the sizes; a corpus of weight 0 is never drawn.
TEST(SampleOrder, WeightsAreRespected) {
  constexpr std::int64_t kCount = 20000;
  std::vector<double> drawn(4, 0.0);
  for (const Location& at : locations(SampleOrder({10, 1000, 30, 0}, {3, 1, 0, 9}, 3), 0, kCount)) {
    drawn[at.first] += 1.0;
  }
  // Five deviations of a binomial share.
  EXPECT_NEAR(drawn[0] / kCount, 0.75, 5.0 * std::sqrt(0.75 * 0.25 / kCount));
  EXPECT_NEAR(drawn[1] / kCount, 0.25, 5.0 * std::sqrt(0.75 * 0.25 / kCount));
  EXPECT_EQ(drawn[2], 0.0);
  EXPECT_EQ(drawn[3], 0.0);
}

// Protects: with weights, each corpus still shows every sample once in each epoch of its own.
TEST(SampleOrder, WeightedCorporaHaveEpochsOfTheirOwn) {
  const std::vector<std::int64_t> samples = {7, 31};
  std::vector<std::vector<std::int64_t>> seen(2);
  for (const Location& at : locations(SampleOrder(samples, {2, 1}, 11), 0, 600)) {
    seen[at.first].push_back(at.second);
  }
  for (std::size_t corpus = 0; corpus < 2; ++corpus) {
    const std::int64_t count = samples[corpus];
    ASSERT_GE(std::ssize(seen[corpus]), 3 * count);
    for (std::int64_t begin = 0; begin + count <= std::ssize(seen[corpus]); begin += count) {
      const auto first = seen[corpus].begin() + begin;
      EXPECT_EQ(std::ssize(std::set<std::int64_t>(first, first + count)), count);
    }
  }
}

// Protects: resume; sample n is the same whatever was asked before.
TEST(SampleOrder, DoesNotDependOnHistory) {
  for (const std::vector<double>& weights : {std::vector<double>{}, std::vector<double>{1, 3}}) {
    const SampleOrder fresh({9, 14}, weights, 8);
    const std::vector<Location> forward = locations(fresh, 0, 100);
    SampleOrder used = fresh;
    for (const std::int64_t n : {99, 0, 50, 49, 50, 98, 1, 7}) {
      EXPECT_EQ(location(used, n), forward[static_cast<std::size_t>(n)]) << n;
    }
  }
}

}  // namespace
}  // namespace moesaic::data
