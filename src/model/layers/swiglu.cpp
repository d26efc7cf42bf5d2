#include "model/layers/swiglu.h"

namespace moesaic::model {

Swiglu::Swiglu(Parameters& parameters, const std::string& prefix, std::int64_t d_model,
               std::int64_t hidden, double init_std, double output_std, const Placement& placement)
    : hidden_(placement.of(hidden).count),
      gate_up_(
          parameters,
          {split_tensor(prefix + "gate_proj.weight", {hidden, d_model}, 0, placement.of(hidden)),
           split_tensor(prefix + "up_proj.weight", {hidden, d_model}, 0, placement.of(hidden))},
          Linear::Full::kInputGradient, init_std, placement),
      down_(parameters,
            {split_tensor(prefix + "down_proj.weight", {d_model, hidden}, 1, placement.of(hidden))},
            Linear::Full::kOutput, output_std, placement) {}

// All ranks of tp compute it; each has a part of its gradient, as it has of y.
void Swiglu::add_gate(Parameters& parameters, const std::string& name, std::int64_t d_model,
                      double init_std, const Placement& placement) {
  gate_ = &parameters.add({.shape = {1, d_model},
                           .tensors = {copied_tensor(name, {1, d_model}, placement)},
                           .init_std = init_std,
                           .sum = SumOver::kStage,
                           .in_products = false});
}

Tensor Swiglu::forward(Context& ctx, const Tensor& x, Saved* saved) const {
  const Tensor gate_up = gate_up_.forward(ctx, x, saved != nullptr ? &saved->gate_up_in : nullptr);
  const Tensor activated = ctx.empty(ctx.compute, {x.dim(0), hidden_});
  ctx.backend.swiglu(gate_up, 0.0F, activated);
  Tensor logit;
  if (gate_ != nullptr) {  // as well before the product as after it
    logit = ctx.empty(DType::kF32, {x.dim(0), 1});
    ctx.backend.matmul(ctx.as(DType::kF32, x), Transpose::kNo, gate_->value, Transpose::kYes, logit,
                       Write::kOverwrite);
    ctx.backend.gate_rows(activated, logit);
  }
  if (saved != nullptr) {
    saved->gate_up = gate_up;
  }
  if (saved != nullptr && gate_ != nullptr) {
    saved->x = x;
    saved->activated = activated;
    saved->logit = logit;
  }
  return down_.forward(ctx, activated, saved != nullptr ? &saved->down_in : nullptr);
}

Tensor Swiglu::backward(Context& ctx, const Tensor& dy, const Saved& saved) const {
  const Tensor dactivated = down_.backward(ctx, dy, saved.down_in);
  Tensor dlogit;
  if (gate_ != nullptr) {
    dlogit = ctx.empty(DType::kF32, saved.logit.shape());
    ctx.backend.gate_rows_backward(dactivated, saved.activated, saved.logit, dlogit);
  }
  const Tensor dgate_up = ctx.empty(ctx.compute, saved.gate_up.shape());
  ctx.backend.swiglu_backward(dactivated, saved.gate_up, 0.0F, dgate_up);
  Tensor dx = gate_up_.backward(ctx, dgate_up, saved.gate_up_in);
  if (gate_ != nullptr) {
    if (gate_->is_trained()) {
      ctx.backend.matmul(dlogit, Transpose::kYes, ctx.as(DType::kF32, saved.x), Transpose::kNo,
                         gate_->grad, Write::kAdd);
    }
    ctx.backend.matmul(dlogit, Transpose::kNo, gate_->value, Transpose::kNo, dx, Write::kAdd);
  }
  return dx;
}

}  // namespace moesaic::model
