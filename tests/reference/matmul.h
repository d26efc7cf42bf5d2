#pragma once

#include "reference/types.h"

namespace moesaic::reference {

/// c (m, n) = a b, where a is stored as (m, k), or (k, m) if transposed; b as (k, n) or (n, k).
Vector matmul(View a, bool a_transposed, View b, bool b_transposed, std::int64_t m, std::int64_t n,
              std::int64_t k);

// Rows [offsets[g], offsets[g + 1]) belong to group g; w (G, n, m).
/// y (R, n) = x (R, m) w^T
Vector grouped_matmul(View x, IndexView offsets, View w, std::int64_t n, std::int64_t m);
/// dx (R, m) = dy (R, n) w
Vector grouped_matmul_dx(View dy, IndexView offsets, View w, std::int64_t n, std::int64_t m);
/// dw (G, n, m) = dy^T x
Vector grouped_matmul_dw(View dy, View x, IndexView offsets, std::int64_t n, std::int64_t m);

}  // namespace moesaic::reference
