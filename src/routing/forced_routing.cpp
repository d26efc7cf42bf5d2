#include "routing/forced_routing.h"

namespace moesaic::routing {

std::vector<std::int32_t> forced_choices(const ForcedRouting& routing, std::int64_t first,
                                         std::int64_t tokens) {
  const std::int64_t experts = routing.experts;
  std::vector<std::int32_t> choices;
  for (std::int64_t token = first; token < first + tokens; ++token) {
    for (std::int64_t k = 0; k < routing.top_k; ++k) {
      const std::int64_t turn = token * routing.top_k + k;
      std::int64_t expert = turn % experts;
      if (routing.force != config::Force::kBalanced && experts > routing.top_k) {
        const bool hot = k == 0 && token % 2 == 0;
        expert = hot ? routing.hot : (routing.hot + 1 + turn % (experts - 1)) % experts;
      }
      choices.push_back(static_cast<std::int32_t>(expert));
    }
  }
  return choices;
}

}  // namespace moesaic::routing
