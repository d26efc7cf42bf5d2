#include "model/forced_routing.h"

namespace moesaic::model {

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

std::vector<float> weights_of(std::span<const std::int32_t> choice, std::span<const float> scores,
                              const ForcedRouting& routing, bool normalize, float scale) {
  const auto top_k = static_cast<std::size_t>(routing.top_k);
  const auto experts = static_cast<std::size_t>(routing.experts);
  std::vector<float> weights(choice.size());
  for (std::size_t begin = 0; begin < choice.size(); begin += top_k) {
    float total = 0.0F;
    for (std::size_t i = begin; i < begin + top_k; ++i) {
      weights[i] = scores[begin / top_k * experts + static_cast<std::size_t>(choice[i])];
      total += weights[i];
    }
    for (std::size_t i = begin; i < begin + top_k; ++i) {
      weights[i] *= normalize ? scale / total : scale;
    }
  }
  return weights;
}

}  // namespace moesaic::model
