#include "model/swiglu.h"

namespace moesaic::model {

Swiglu::Swiglu(Parameters& parameters, const std::string& prefix, std::int64_t d_model,
               std::int64_t hidden, double init_std, double output_std, const Placement& place)
    : hidden_(place.of(hidden).count),
      gate_up_(parameters,
               {split_tensor(prefix + "gate_proj.weight", {hidden, d_model}, 0, place.of(hidden)),
                split_tensor(prefix + "up_proj.weight", {hidden, d_model}, 0, place.of(hidden))},
               Linear::Full::kInputGradient, init_std),
      down_(parameters,
            {split_tensor(prefix + "down_proj.weight", {d_model, hidden}, 1, place.of(hidden))},
            Linear::Full::kOutput, output_std) {}

Tensor Swiglu::forward(Context& ctx, const Tensor& x, Saved* saved) const {
  const Tensor gate_up = gate_up_.forward(ctx, x, saved != nullptr ? &saved->gate_up_in : nullptr);
  const Tensor activated = ctx.empty(ctx.compute, {x.dim(0), hidden_});
  ctx.backend.swiglu(gate_up, activated);
  if (saved != nullptr) {
    saved->gate_up = gate_up;
  }
  return down_.forward(ctx, activated, saved != nullptr ? &saved->down_in : nullptr);
}

Tensor Swiglu::backward(Context& ctx, const Tensor& dy, const Saved& saved) const {
  const Tensor dactivated = down_.backward(ctx, dy, saved.down_in);
  const Tensor dgate_up = ctx.empty(ctx.compute, saved.gate_up.shape());
  ctx.backend.swiglu_backward(dactivated, saved.gate_up, dgate_up);
  return gate_up_.backward(ctx, dgate_up, saved.gate_up_in);
}

}  // namespace moesaic::model
