#pragma once

#include <cstdint>
#include <vector>

#include "hf/config.h"

namespace moesaic::hf {

/// The layers without experts, in order.
std::vector<std::int64_t> dense_layers_of(const HfKeys& keys);
/// Width of all shared experts together; 0: none.
std::int64_t shared_width_of(const HfKeys& keys);
bool is_latent(const HfKeys& keys);
bool has_correction_bias(const HfKeys& keys);  // of the router

/// Keys that say the same as `keys` in one form: defaults are resolved, what has no effect is at
/// its default, and what only training uses is left out.
HfKeys canonical(const HfKeys& keys);

}  // namespace moesaic::hf
