#pragma once

#include <cstdint>
#include <span>
#include <vector>

// Row-major arrays in double, dims as arguments. Every function returns new arrays.
namespace moesaic::reference {

using Vector = std::vector<double>;
using View = std::span<const double>;
using Indices = std::vector<std::int64_t>;
using IndexView = std::span<const std::int64_t>;

}  // namespace moesaic::reference
