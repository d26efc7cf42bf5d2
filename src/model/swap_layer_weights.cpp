#include "model/swap_layer_weights.h"

#include <fmt/format.h>

#include <utility>

#include "base/error.h"

namespace moesaic::model {

bool is_quantized(const Parameter& parameter) {
  return parameter.packed.groups > 0 && parameter.packed.format != DType::kBf16;
}

void swap_layer_weights(Parameters& one, Parameters& other, std::int64_t layer) {
  require(one.all().size() == other.all().size(), "two models that differ exchange weights");
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  auto second = other.all().begin();
  for (Parameter& first : one.all()) {
    Parameter& match = *second++;
    if (first.spec.tensors.empty()) {
      continue;
    }
    const std::string& name = first.spec.tensors.front().name;
    require(!match.spec.tensors.empty() && name == match.spec.tensors.front().name,
            "two models that differ exchange weights");
    if (name.starts_with(prefix) && (is_quantized(first) || is_quantized(match))) {
      std::swap(first.value, match.value);
      std::swap(first.compute, match.compute);
      std::swap(first.packed, match.packed);
    }
  }
}

}  // namespace moesaic::model
