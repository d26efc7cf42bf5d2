#pragma once

#include <string>

#include "model/context.h"
#include "model/layers/linear.h"

namespace moesaic::model {

/// y = down (silu(gate x) * up x), perhaps times sigmoid(w . x): dense layers and shared experts.
/// F is split over tp.   x: (T, D) compute   y: (T, D) fp32, this rank's term   Shazeer 2020
/// Collective over tp where Linear is.
class Swiglu {
 public:
  struct Saved {
    Linear::Saved gate_up_in, down_in;
    Tensor gate_up;              // (T, 2F) compute
    Tensor x, activated, logit;  // (T, D), (T, F), (T, 1) fp32, if there is a gate on y
  };

  /// prefix: "model.layers.N.mlp."
  Swiglu(Parameters& parameters, const std::string& prefix, std::int64_t d_model,
         std::int64_t hidden, double init_std, double output_std, const Placement& placement);
  /// With a gate on y, the tensor `name` (1, D).
  void add_gate(Parameters& parameters, const std::string& name, std::int64_t d_model,
                double init_std, const Placement& placement);
  Tensor forward(Context& ctx, const Tensor& x, Saved* saved) const;
  Tensor backward(Context& ctx, const Tensor& dy, const Saved& saved) const;  // dx: fp32

 private:
  std::int64_t hidden_;  // of this rank
  Linear gate_up_, down_;
  Parameter* gate_ = nullptr;
};
static_assert(Layer<Swiglu>);

}  // namespace moesaic::model
