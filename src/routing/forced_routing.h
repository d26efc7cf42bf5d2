#pragma once

#include <cstdint>
#include <vector>

#include "config/config.h"

namespace moesaic::routing {

/// What a forced choice depends on besides the token's position.
struct ForcedRouting {
  config::Force force;
  std::int64_t experts, top_k;  // regular ones, numbered from 0
  std::int64_t hot;             // the expert that half of the tokens go to, unless balanced
};

/// Choices (tokens, K) of tokens [first, first + tokens) of a micro-batch, for measurements alone.
/// Balanced: every expert in turn. Hot: every second token's first choice is the hot expert, all
/// other choices go over the other experts in turn.
std::vector<std::int32_t> forced_choices(const ForcedRouting& routing, std::int64_t first,
                                         std::int64_t tokens);

}  // namespace moesaic::routing
