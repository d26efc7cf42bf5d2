#include "tensor/rng.h"

#include <cmath>
#include <numbers>

namespace moesaic {

double Rng::uniform(std::uint64_t i) const {
  return (static_cast<double>(bits(i) >> 11U) + 0.5) * 0x1.0p-53;
}

double Rng::normal(std::uint64_t i) const {
  const double radius = std::sqrt(-2.0 * std::log(uniform(2 * i)));  // Box and Muller 1958
  return radius * std::cos(2.0 * std::numbers::pi * uniform(2 * i + 1));
}

}  // namespace moesaic
