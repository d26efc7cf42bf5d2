#pragma once

#include "reference/types.h"

namespace moesaic::reference {

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

}  // namespace moesaic::reference
