#pragma once

#include <cstdint>

#include "model/parameter/parameters.h"

namespace moesaic::model {

/// Whether a weight is kept as int8 or int4 codes.
bool is_quantized(const Parameter& parameter);

/// Swaps the weights of a layer that are quantized in one of two models with those of the other
/// model. Both models have one shape and one layout. A second call undoes the first.
void swap_layer_weights(Parameters& one, Parameters& other, std::int64_t layer);

}  // namespace moesaic::model
