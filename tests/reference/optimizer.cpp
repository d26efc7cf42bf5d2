#include "reference/optimizer.h"

#include <cmath>

namespace moesaic::reference {

AdamWState adamw(const AdamWState& before, View grad, const AdamWOptions& options,
                 std::int64_t step) {
  const double correction1 = 1.0 - std::pow(options.beta1, static_cast<double>(step));
  const double correction2 = 1.0 - std::pow(options.beta2, static_cast<double>(step));
  AdamWState after = before;
  for (std::size_t i = 0; i < grad.size(); ++i) {
    const double g = grad[i] * options.grad_scale;
    after.exp_avg[i] = options.beta1 * before.exp_avg[i] + (1.0 - options.beta1) * g;
    after.exp_avg_sq[i] = options.beta2 * before.exp_avg_sq[i] + (1.0 - options.beta2) * g * g;
    const double mean = after.exp_avg[i] / correction1;
    const double square = after.exp_avg_sq[i] / correction2;
    after.value[i] -= options.lr * (mean / (std::sqrt(square) + options.eps) +
                                    options.weight_decay * before.value[i]);
  }
  return after;
}

}  // namespace moesaic::reference
