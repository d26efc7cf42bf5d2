#pragma once

#include <algorithm>
#include <limits>

#include "backend/attention.h"
#include "backend/cpu/kernels/kernels.h"

namespace moesaic::cpu {

/// The positions that some query rows see, all together; begin > end: none.
inline Range seen_range(const VisibleKeys& visible, Range rows) {
  const std::int32_t* const first = visible.first.as<std::int32_t>().data();
  const std::int32_t* const last = visible.last.as<std::int32_t>().data();
  Range seen{std::numeric_limits<std::int32_t>::max(), 0};
  for (std::int64_t t = rows.begin; t < rows.end; ++t) {
    if (first[t] < last[t]) {
      seen = {std::min<std::int64_t>(seen.begin, first[t]),
              std::max<std::int64_t>(seen.end, last[t])};
    }
  }
  return seen;
}

}  // namespace moesaic::cpu
