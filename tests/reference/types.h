#pragma once

#include <cstdint>
#include <iterator>
#include <span>
#include <vector>

// Row-major arrays in double, dims as arguments. Every function returns new arrays.
namespace moesaic::reference {

using Vector = std::vector<double>;
using View = std::span<const double>;
using Indices = std::vector<std::int64_t>;
using IndexView = std::span<const std::int64_t>;

/// Groups of `width` elements in rows of `row`: the first at `first`, each next one `stride` later.
struct Groups {
  std::int64_t row, first, groups, stride, width;
};
inline std::int64_t rows_of(View x, const Groups& groups) { return std::ssize(x) / groups.row; }

}  // namespace moesaic::reference
