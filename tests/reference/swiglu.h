#pragma once

#include "reference/types.h"

namespace moesaic::reference {

/// y (R, width) = silu(gate) * up, with gate_up (R, 2 width) = [gate | up].
Vector swiglu(View gate_up, std::int64_t width);
/// dgate_up (R, 2 width)
Vector swiglu_backward(View dy, View gate_up, std::int64_t width);

}  // namespace moesaic::reference
