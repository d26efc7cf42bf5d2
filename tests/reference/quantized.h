#pragma once

#include "reference/types.h"

namespace moesaic::reference {

/// The rows of x (R, columns) as products with packed integers see them: in each block of `block`
/// along a row, integers of at most 127 times the largest absolute value / 127. Both factors are
/// single numbers; the rest is exact.
Vector rounded_rows(View x, std::int64_t columns, std::int64_t block);

}  // namespace moesaic::reference
