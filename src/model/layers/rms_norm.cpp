#include "model/layers/rms_norm.h"

namespace moesaic::model {

RmsNorm::RmsNorm(Parameters& parameters, const std::string& name, std::int64_t dim, float eps,
                 const Placement& placement, bool partial)
    : weight_(parameters.add(
          {.shape = {dim},
           .tensors = {copied_tensor(name, {dim}, placement)},
           .init_value = 1.0,
           .sum = placement.sequence || partial ? SumOver::kStage : SumOver::kReplicas,
           .in_products = false})),
      eps_(eps) {}

Tensor RmsNorm::forward(Context& ctx, const Tensor& x, Saved* saved) const {
  Tensor y = ctx.empty(ctx.compute, x.shape());
  const Tensor rstd = ctx.empty(DType::kF32, {x.dim(0)});
  ctx.backend.rms_norm(x, weight_.value, eps_, y, rstd);
  if (saved != nullptr) {
    *saved = {x, rstd};
  }
  return y;
}

Tensor RmsNorm::backward(Context& ctx, const Tensor& dy, const Saved& saved) const {
  Tensor dx = ctx.empty(DType::kF32, saved.x.shape());
  ctx.backend.rms_norm_backward(dy, saved.x, weight_.value, saved.rstd, dx, weight_.grad);
  return dx;
}

}  // namespace moesaic::model
