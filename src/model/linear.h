#pragma once

#include <string>
#include <vector>

#include "model/context.h"
#include "model/parameters.h"

namespace moesaic::model {

/// Rows of a linear map that have a public name of their own (q, k and v in one product).
struct LinearPart {
  std::string name;
  std::int64_t rows;
};

/// y = x weight^T.   x: (T, in) compute   weight: (out, in), the parts stacked
/// y is fp32 where it joins the residual stream, else compute; dx likewise where x came from it.
class Linear {
 public:
  enum class Full { kOutput, kInputGradient };  // which of the two is fp32
  struct Saved {
    Tensor x;
  };

  Linear(Parameters& parameters, const std::vector<LinearPart>& parts, std::int64_t in, Full full,
         double init_std);
  Tensor forward(Context& ctx, const Tensor& x, Saved* saved) const;
  Tensor backward(Context& ctx, const Tensor& dy, const Saved& saved) const;

 private:
  Parameter& weight_;
  Full full_;
};
static_assert(Layer<Linear>);

}  // namespace moesaic::model
