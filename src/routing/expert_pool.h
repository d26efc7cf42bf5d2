#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace moesaic::routing {

/// The experts of one MoE layer: what each is, and which of the ranks that share out whole experts
/// holds it. Numbers are never used again, so E counts retired experts too.
struct ExpertPool {
  std::vector<ExpertState> state;                  // [E]
  std::vector<std::vector<std::int32_t>> of_rank;  // ascending numbers; no retired expert

  std::int64_t size() const { return static_cast<std::int64_t>(state.size()); }  // E
  std::int64_t count(ExpertState wanted) const;
  bool is(std::int64_t expert, ExpertState wanted) const {
    return state[static_cast<std::size_t>(expert)] == wanted;
  }
  std::vector<std::int32_t> state_numbers() const;  // [E], as the trace has them
};

/// states: a letter for each expert (expert_pool_of). Regular experts and spares are each
/// spread over the ranks in blocks as equal as can be; with a load of each expert they go, the
/// busiest first, to the rank with the least load so far, while the numbers of ranks differ by one
/// at most.
ExpertPool make_expert_pool(const std::string& states, int ranks, std::span<const float> load = {});

}  // namespace moesaic::routing
