#pragma once

#include "reference/types.h"

namespace moesaic::reference {

/// What attention gives when a key of logit sinks[h] without a value joins. out (T, H, v), lse
/// (T, H).
struct Sunk {
  Vector out, lse;
};
Sunk add_sinks(View out, View lse, View sinks);
/// (H); out and lse with the sinks.
Vector sinks_backward(View dout, View out, View lse, View sinks);

}  // namespace moesaic::reference
