#pragma once

#include "reference/types.h"

namespace moesaic::reference {

/// y (R, width) = silu(gate) * up, with gate_up (R, 2 width) = [gate | up]. With a limit L > 0:
/// (clamp(up, -L, L) + 1) g sigmoid(1.702 g) with g = min(gate, L).
Vector swiglu(View gate_up, std::int64_t width, double limit = 0.0);
/// dgate_up (R, 2 width)
Vector swiglu_backward(View dy, View gate_up, std::int64_t width, double limit = 0.0);

}  // namespace moesaic::reference
