#pragma once

#include "reference/types.h"

namespace moesaic::reference {

struct AdamWOptions {
  double lr, beta1, beta2, eps, weight_decay;
  double grad_scale;  // multiplies the gradient first
};

struct AdamWState {
  Vector value, exp_avg, exp_avg_sq;
};
/// Step number `step` (from 1) of Loshchilov & Hutter 2019, with bias correction.
AdamWState adamw(const AdamWState& before, View grad, const AdamWOptions& options,
                 std::int64_t step);

}  // namespace moesaic::reference
