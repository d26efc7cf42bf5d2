#pragma once

#include <string>
#include <vector>

#include "model/context.h"
#include "model/parameters.h"

namespace moesaic::model {

/// y = x weight^T.   x: (T, in) compute   weight: (out, in), the tensors (this rank's parts)
/// stacked y is fp32 where it joins the residual stream, else compute; dx likewise where x came
/// from it.
class Linear {
 public:
  enum class Full { kOutput, kInputGradient };  // which of the two is fp32
  struct Saved {
    Tensor x;
  };

  Linear(Parameters& parameters, const std::vector<PublicTensor>& tensors, Full full,
         double init_std);
  Tensor forward(Context& ctx, const Tensor& x, Saved* saved) const;
  Tensor backward(Context& ctx, const Tensor& dy, const Saved& saved) const;

 private:
  Parameter& weight_;
  Full full_;
};
static_assert(Layer<Linear>);

}  // namespace moesaic::model
