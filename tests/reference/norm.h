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

/// RMS norm of each group with one weight (width); the rest of x stays.
Vector group_norm(View x, const Groups& groups, View weight, double eps);
struct GroupNormGradient {
  Vector dx;       // as x; outside of groups dy
  Vector dweight;  // (width)
};
GroupNormGradient group_norm_backward(View dy, View x, const Groups& groups, View weight,
                                      double eps);

}  // namespace moesaic::reference
