#pragma once

#include <cstdint>
#include <vector>

#include "config/config.h"

namespace moesaic::data {

/// One sample of a group: group and index count corpora and their samples, or tasks and theirs.
struct SampleDraw {
  std::size_t group = 0;
  std::int64_t index = 0;
};

/// The order in which samples are seen: a function of (seed, number of the sample) alone, never of
/// the ranks, so that a checkpoint's data cursor is one integer. In each epoch every sample comes
/// once, permuted by a key of (seed, epoch). With weights, a keyed draw names the group of each
/// sample (a corpus, or a task), and each group goes through epochs of its own.
class SampleOrder {
 public:
  /// samples: of each group, at least one in all. weights: empty, or one for each group.
  SampleOrder(std::vector<std::int64_t> samples, const std::vector<double>& weights,
              std::int64_t seed);

  /// Sample n of the run. With weights: O(n) at first, then cheap while n grows.
  SampleDraw at(std::int64_t n);

 private:
  std::size_t draw(std::int64_t n) const;

  std::vector<std::int64_t> samples_;
  std::vector<double> cumulative_;  // of the weights; empty: by size
  std::int64_t total_ = 0;
  std::uint64_t seed_;
  std::vector<std::int64_t> seen_;  // of each group, among the first next_ draws
  std::int64_t next_ = 0;
};

using SampleRanges = std::vector<config::SampleRange>;

/// The next `count` sample numbers from `cursor` on that lie in no skipped range (ascending,
/// without overlaps).
SampleRanges next_samples(std::int64_t cursor, std::int64_t count, const SampleRanges& skipped);

/// Element i of a keyed permutation of [0, n): a Feistel network over the next power of four,
/// walked until it falls inside (Black & Rogaway 2002).
std::int64_t permuted(std::int64_t i, std::int64_t n, std::uint64_t key);

}  // namespace moesaic::data
