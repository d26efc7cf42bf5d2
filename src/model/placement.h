#pragma once

#include <cstdint>

namespace moesaic::model {

/// Part [begin, begin + count) of an axis.
struct Slice {
  std::int64_t begin = 0, count = 0;
  std::int64_t end() const { return begin + count; }
};

/// Part `i` of n things in order, split over `parts` as evenly as can be.
constexpr Slice share_of(std::int64_t n, std::int64_t i, std::int64_t parts) {
  const std::int64_t begin = n * i / parts;
  return {begin, n * (i + 1) / parts - begin};
}

/// The layers of pipeline chunk c of `chunks`: consecutive, and the first ones have one more where
/// they do not divide evenly, as the last has the head to compute.
constexpr Slice layers_of_chunk(std::int64_t layers, std::int64_t c, std::int64_t chunks) {
  const std::int64_t more = layers % chunks;
  return {c * (layers / chunks) + (c < more ? c : more), layers / chunks + (c < more ? 1 : 0)};
}

/// This rank's place among those that hold one replica of the model, and so its share of every
/// parameter.
struct Placement {
  int tp_rank = 0, tp = 1;
  int expert_rank = 0, expert_ranks = 1;  // of the ranks that share out whole experts
  bool folded = false;    // experts are whole and spread over ep x tp; else split over tp as well
  bool sequence = false;  // outside of attention and experts each rank of tp has its share of rows
  int stage = 0, stages = 1;  // of the pipeline
  int chunks = 1;             // runs of layers that each stage has (interleaved if more than one)

  Slice of(std::int64_t n) const { return share_of(n, tp_rank, tp); }
  bool is_first() const { return stage == 0; }
  bool is_last() const { return stage == stages - 1; }
};

}  // namespace moesaic::model
