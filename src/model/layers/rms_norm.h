#pragma once

#include <string>

#include "model/context.h"
#include "model/parameter/parameters.h"

namespace moesaic::model {

/// y = x / rms(x) * weight over the last dim.   x: (T, D) fp32   y: (T, D) compute   weight: (D)
/// Not collective: the gradient of the weight is summed with all others.
class RmsNorm {
 public:
  struct Saved {
    Tensor x, rstd;
  };

  /// partial: each rank of tp gets a part of dy, of all rows.
  RmsNorm(Parameters& parameters, const std::string& name, std::int64_t dim, float eps,
          const Placement& placement, bool partial = false);
  Tensor forward(Context& ctx, const Tensor& x, Saved* saved) const;
  Tensor backward(Context& ctx, const Tensor& dy, const Saved& saved) const;  // dy, dx: fp32

 private:
  Parameter& weight_;
  float eps_;
};
static_assert(Layer<RmsNorm>);

}  // namespace moesaic::model
