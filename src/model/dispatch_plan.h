#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moesaic::model {

/// Where the rows of a micro-batch go: one row for each choice that is kept, ordered by expert,
/// then by token.
struct DispatchPlan {
  std::vector<std::int32_t> source;    // [R] the token of each row
  std::vector<std::int32_t> position;  // [T, K] the row of each choice; -1: dropped
  std::vector<std::int64_t> chosen;    // [E] choices of each expert, before capacity
  std::vector<std::int64_t> kept;      // [E] rows of each expert
};

/// A pure function of the choices (T, K) and their weights. capacity = slots of each expert, 0:
/// dropless. Where an expert has more, the choices of the largest weight stay; the lower token
/// index wins ties.
DispatchPlan plan_dispatch(std::span<const std::int32_t> choice, std::span<const float> weight,
                           std::int64_t top_k, std::int64_t experts, std::int64_t capacity);

/// The part of a plan that moves the tokens [begin, begin + count): what one rank of tp sends, with
/// tokens and rows counted from its own first. `chosen` stays that of all tokens.
DispatchPlan part_of(const DispatchPlan& plan, std::int64_t top_k, std::int64_t begin,
                     std::int64_t count);

}  // namespace moesaic::model
