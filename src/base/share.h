#pragma once

#include <cstdint>

// How things in a row are shared out: layers over stages, heads and rows over ranks.
namespace moesaic {

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

/// Ranks of tp that hold the same key and value heads: more than one where there are fewer heads.
constexpr std::int64_t kv_copies(std::int64_t kv_heads, std::int64_t tp) {
  return tp > kv_heads ? tp / kv_heads : 1;
}
/// Key and value heads of one rank.
constexpr std::int64_t kv_heads_of_rank(std::int64_t kv_heads, std::int64_t tp) {
  return tp > kv_heads ? 1 : kv_heads / tp;
}

/// Share of a step in which a stage of a pipeline waits if all its chunks take the same time:
/// (p - 1) / (v m + p - 1) (Narayanan et al. 2021, section 2.2).
constexpr double ideal_bubble(std::int64_t stages, std::int64_t chunks,
                              std::int64_t micro_batches) {
  return static_cast<double>(stages - 1) / static_cast<double>(chunks * micro_batches + stages - 1);
}

}  // namespace moesaic
