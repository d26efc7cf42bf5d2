#pragma once

#include <cstdint>

#include "model/parameters.h"

namespace moesaic::model {

/// Whether a weight is kept in eight bits or fewer.
bool is_quantized(const Parameter& parameter);

/// Exchanges the weights of a layer that are in few bits in one of two models, of one shape and on
/// one layout, with those that the other has in their place. Twice is as if it never was.
void swap_layer_weights(Parameters& one, Parameters& other, std::int64_t layer);

}  // namespace moesaic::model
