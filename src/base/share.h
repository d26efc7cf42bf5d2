#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

// How things in a row are shared out: layers over stages, heads and rows over ranks.
namespace moesaic {

/// Part [begin, begin + count) of an axis.
struct Slice {
  std::int64_t begin = 0, count = 0;
  constexpr std::int64_t end() const { return begin + count; }
};

/// What two parts of one axis have in common; a count of 0 if that is nothing.
constexpr Slice overlap(Slice a, Slice b) {
  const std::int64_t begin = a.begin > b.begin ? a.begin : b.begin;
  const std::int64_t end = a.end() < b.end() ? a.end() : b.end();
  return {begin, end > begin ? end - begin : 0};
}

/// Part `i` of n things in order, split over `parts` as evenly as can be.
constexpr Slice share_of(std::int64_t n, std::int64_t i, std::int64_t parts) {
  const std::int64_t begin = n * i / parts;
  return {begin, n * (i + 1) / parts - begin};
}

/// The blocks of an axis of n things that a part of it is in; the last one may be shorter.
constexpr Slice block_aligned(Slice part, std::int64_t block, std::int64_t n) {
  const std::int64_t begin = part.begin / block * block;
  const std::int64_t end = (part.end() + block - 1) / block * block;
  return {begin, (end < n ? end : n) - begin};
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

/// Slots of each expert for so many choices: a given number, or ceil(factor x choices / experts) if
/// there is a factor; 0: no limit.
inline std::int64_t expert_slots(std::int64_t capacity, double factor, std::int64_t choices,
                                 std::int64_t experts) {
  return factor > 0.0 ? static_cast<std::int64_t>(std::ceil(factor * static_cast<double>(choices) /
                                                            static_cast<double>(experts)))
                      : capacity;
}

/// Chunks that a stage computes forward before its first backward, beside the one between them
/// (1F1B, or interleaved with several chunks on each stage).
constexpr std::int64_t chunks_ahead(std::int64_t stage, std::int64_t stages, std::int64_t chunks) {
  const std::int64_t later = stages - stage - 1;
  return chunks == 1 ? later : 2 * later + (chunks - 1) * stages;
}

/// Rows of logits that exist at a time, about 16 MiB on each rank of tp: enough that reading the
/// head's weights and writing their gradient for each block costs little beside the products.
constexpr std::int64_t logit_rows(std::int64_t vocabulary, std::int64_t tp) {
  constexpr std::int64_t kElements = std::int64_t{1} << 22U;
  return std::clamp<std::int64_t>(kElements * tp / std::max<std::int64_t>(vocabulary, 1), 256,
                                  1024);
}

/// Share of a step in which a stage of a pipeline waits if all its chunks take the same time:
/// (p - 1) / (v m + p - 1) (Narayanan et al. 2021, section 2.2).
constexpr double ideal_bubble(std::int64_t stages, std::int64_t chunks,
                              std::int64_t micro_batches) {
  return static_cast<double>(stages - 1) / static_cast<double>(chunks * micro_batches + stages - 1);
}

}  // namespace moesaic
