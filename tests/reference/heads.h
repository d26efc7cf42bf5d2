#pragma once

#include "reference/types.h"

namespace moesaic::reference {

/// Groups of `width` elements in rows of `row`: the first at `first`, each next one `stride` later.
struct Groups {
  std::int64_t row, first, groups, stride, width;
};

/// cos and sin of position x frequency turn the pairs of each group, which are half a width apart
/// or neighbours; then they are multiplied by the magnitude.
struct Rotation {
  Vector frequency;  // (width / 2)
  bool interleave = false;
  double magnitude = 1.0;
  bool inverse = false;
};
Vector rope(View x, const Groups& groups, IndexView position, const Rotation& rotation);
/// theta^(-2i/width) for each pair.
Vector plain_frequencies(std::int64_t width, double theta);

/// RMS norm of each group with one weight (width); the rest of x stays.
Vector group_norm(View x, const Groups& groups, View weight, double eps);
struct GroupNormGradient {
  Vector dx;       // as x; outside of groups dy
  Vector dweight;  // (width)
};
GroupNormGradient group_norm_backward(View dy, View x, const Groups& groups, View weight,
                                      double eps);

/// What attention gives when a key of logit sinks[h] without a value joins. out (T, H, v), lse
/// (T, H).
struct Sunk {
  Vector out, lse;
};
Sunk add_sinks(View out, View lse, View sinks);
/// (H); out and lse with the sinks.
Vector sinks_backward(View dout, View out, View lse, View sinks);

}  // namespace moesaic::reference
