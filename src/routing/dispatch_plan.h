#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/share.h"
#include "config/config.h"
#include "routing/expert_pool.h"

namespace moesaic::routing {

/// What became of a choice. The numbers are those of the routing record.
enum class DispatchOutcome : std::uint8_t { kKept, kNext, kSpare, kDropped };

/// What the router says about the T tokens of a micro-batch, K choices each.
struct RoutedTokens {
  std::int64_t top_k = 1;
  std::span<const std::int32_t> choice;  // (T, K), best first; -1: none
  std::span<const float> weight;         // (T, K)
  /// (T, E): where else a token would go, the larger the rather; -inf: never. A spare's is compared
  /// with spares alone. Only read if choices are rerouted.
  std::span<const float> selection;
};

/// Slots of each expert, 0: no limit; and what becomes of choices that find none.
struct SlotRule {
  std::int64_t slots = 0;
  config::Overflow overflow = config::Overflow::kDrop;
};

/// Where the rows of a micro-batch go: one row for each choice that is computed, ordered by the
/// rank that holds its expert, by expert, then by token.
struct DispatchPlan {
  std::int64_t top_k = 1;
  std::vector<std::int32_t> source;      // [R] the token of each row
  std::vector<std::int32_t> position;    // [T, K] the row of each choice; -1: none
  std::vector<std::int32_t> target;      // [T, K] the expert that computes it; -1: none
  std::vector<DispatchOutcome> outcome;  // [T, K]; kKept where there is no choice
  std::vector<std::int32_t> order;       // the experts in the order of their rows
  // [E] choices of each expert by the router, of these dropped and rerouted; and its rows
  std::vector<std::int64_t> chosen, dropped, rerouted, rows;

  bool has_rerouted() const;
};

/// A pure function of its arguments. Where an expert has more choices than slots, those of the
/// largest weight stay, the lower token winning ties. The others, in the same order over all
/// experts, go to the spare with a free slot that fits the token best (overflow = spare), else to
/// the best expert with a free slot (spare and next), never to one that the token has; else they
/// are dropped.
DispatchPlan plan_dispatch(const RoutedTokens& tokens, const ExpertPool& expert_pool,
                           const SlotRule& rule);

/// The part of a plan that moves some tokens, given in order: what one rank of tp or cp sends, with
/// tokens and rows counted from its own first. Counts of choices stay those of all tokens.
DispatchPlan part_of(const DispatchPlan& plan, std::span<const Slice> tokens);

}  // namespace moesaic::routing
