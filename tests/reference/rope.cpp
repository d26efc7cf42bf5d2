#include "reference/rope.h"

#include <cmath>

namespace moesaic::reference {

Vector plain_frequencies(std::int64_t width, double theta) {
  Vector frequency;
  for (std::int64_t i = 0; i < width / 2; ++i) {
    frequency.push_back(
        std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(width)));
  }
  return frequency;
}

Vector rope(View x, const Groups& groups, IndexView position, const Rotation& rotation) {
  Vector y(x.begin(), x.end());
  const std::int64_t half = groups.width / 2;
  for (std::int64_t t = 0; t < rows_of(x, groups); ++t) {
    for (std::int64_t g = 0; g < groups.groups; ++g) {
      const std::int64_t start = t * groups.row + groups.first + g * groups.stride;
      for (std::int64_t i = 0; i < half; ++i) {
        const double turn = static_cast<double>(position[t]) * rotation.frequency[i];
        const double angle = rotation.inverse ? -turn : turn;
        const std::int64_t a = start + (rotation.interleave ? 2 * i : i);
        const std::int64_t b = start + (rotation.interleave ? 2 * i + 1 : i + half);
        y[a] = rotation.magnitude * (x[a] * std::cos(angle) - x[b] * std::sin(angle));
        y[b] = rotation.magnitude * (x[b] * std::cos(angle) + x[a] * std::sin(angle));
      }
    }
  }
  return y;
}

}  // namespace moesaic::reference
