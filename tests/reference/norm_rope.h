#pragma once

#include "reference/types.h"

namespace moesaic::reference {

struct RmsNorm {
  Vector y;     // (rows, dim)
  Vector rstd;  // (rows)
};
/// y = x / sqrt(mean(x^2) + eps) * weight, over the last dim.
RmsNorm rms_norm(View x, View weight, double eps);

struct RmsNormGradient {
  Vector dx;       // (rows, dim)
  Vector dweight;  // (dim)
};
RmsNormGradient rms_norm_backward(View dy, View x, View weight, double eps);

/// Rotates the pairs (i, i + hd/2) of the first `heads` heads of x (T, all_heads, head_dim) by
/// position[t] * theta^(-2i/hd), or back if `inverse`.
Vector rope(View x, std::int64_t heads, std::int64_t all_heads, std::int64_t head_dim,
            IndexView position, double theta, bool inverse);

}  // namespace moesaic::reference
