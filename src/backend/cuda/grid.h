#pragma once

#include <cstdint>
#include <limits>

#include "base/error.h"

namespace moesaic::cuda {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// So many blocks in the first dimension of a grid.
inline unsigned grid_of(std::int64_t blocks) {
  require(blocks <= std::numeric_limits<std::int32_t>::max(), "too many blocks for one launch");
  return static_cast<unsigned>(blocks);
}

}  // namespace moesaic::cuda
