#pragma once

#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace moesaic::model {

/// What one layer keeps of the tokens of sequences, in P pages of kPageTokens.
struct LayerCache {
  Tensor keys, values;  // (P, heads, kPageTokens, width) compute; no values: they begin the keys
  // The latent attention's products between latent vectors and a head's parts, compute.
  Tensor key_up, value_up;  // (H, n, R), (H, v, R)
};

/// The cache of each layer of the model, by layer index; empty for layers of other stages.
using PagedCache = std::vector<LayerCache>;

}  // namespace moesaic::model
