#pragma once

#include <initializer_list>

#include "backend/backend.h"
#include "reference/types.h"

namespace moesaic::testing {

/// Groups at the start, in the middle and at the end of a row, with and without gaps.
inline constexpr std::initializer_list<reference::Groups> kGroups = {
    {.row = 20, .first = 0, .groups = 2, .stride = 10, .width = 10},
    {.row = 23, .first = 4, .groups = 3, .stride = 6, .width = 2},
    {.row = 80, .first = 7, .groups = 2, .stride = 37, .width = 34},
    {.row = 40, .first = 8, .groups = 1, .stride = 0, .width = 32},
};

inline RowGroups of(const reference::Groups& g) { return {g.first, g.groups, g.stride, g.width}; }

}  // namespace moesaic::testing
