#include "model/experts.h"

#include <fmt/format.h>

namespace moesaic::model {
namespace {

// Public tensors of experts [first, first + count), one after the other.
std::vector<PublicTensor> expert_tensors(const std::string& prefix, std::int64_t first,
                                         std::int64_t count, const std::vector<std::string>& names,
                                         const Shape& shape) {
  std::vector<PublicTensor> tensors;
  std::int64_t begin = 0;
  for (std::int64_t e = first; e < first + count; ++e) {
    for (const std::string& name : names) {
      tensors.push_back({fmt::format("{}{}.{}.weight", prefix, e, name), shape, begin});
      begin += shape.numel();
    }
  }
  return tensors;
}

}  // namespace

Experts::Experts(Parameters& parameters, const std::string& prefix, std::int64_t first,
                 std::int64_t count, std::int64_t d_model, std::int64_t hidden, double init_std,
                 double output_std)
    : hidden_(hidden),
      gate_up_(
          parameters.add({.shape = {count, 2 * hidden, d_model},
                          .tensors = expert_tensors(prefix, first, count, {"gate_proj", "up_proj"},
                                                    {hidden, d_model}),
                          .init_std = init_std,
                          .sharding = Sharding::kExpert})),
      down_(parameters.add(
          {.shape = {count, d_model, hidden},
           .tensors = expert_tensors(prefix, first, count, {"down_proj"}, {d_model, hidden}),
           .init_std = output_std,
           .sharding = Sharding::kExpert})) {}

Tensor Experts::forward(Context& ctx, const Tensor& x, std::span<const std::int64_t> offsets,
                        Saved* saved) const {
  const std::int64_t rows = x.dim(0);
  const Tensor gate_up = ctx.empty(ctx.compute, {rows, 2 * hidden_});
  ctx.backend.grouped_matmul(x, offsets, gate_up_.compute, gate_up);
  const Tensor activated = ctx.empty(ctx.compute, {rows, hidden_});
  ctx.backend.swiglu(gate_up, activated);
  Tensor y = ctx.empty(ctx.compute, x.shape());
  ctx.backend.grouped_matmul(activated, offsets, down_.compute, y);
  if (saved != nullptr) {
    *saved = {x, gate_up};
  }
  return y;
}

Tensor Experts::backward(Context& ctx, const Tensor& dy, std::span<const std::int64_t> offsets,
                         const Saved& saved) const {
  const std::int64_t rows = dy.dim(0);
  const Tensor activated = ctx.empty(ctx.compute, {rows, hidden_});
  ctx.backend.swiglu(saved.gate_up, activated);  // cheaper to make again than to keep
  ctx.backend.grouped_matmul_dw(dy, activated, offsets, down_.grad);
  const Tensor& dactivated = activated;
  ctx.backend.grouped_matmul_dx(dy, offsets, down_.compute, dactivated);
  const Tensor dgate_up = ctx.empty(ctx.compute, saved.gate_up.shape());
  ctx.backend.swiglu_backward(dactivated, saved.gate_up, dgate_up);
  ctx.backend.grouped_matmul_dw(dgate_up, saved.x, offsets, gate_up_.grad);
  Tensor dx = ctx.empty(ctx.compute, saved.x.shape());
  ctx.backend.grouped_matmul_dx(dgate_up, offsets, gate_up_.compute, dx);
  return dx;
}

}  // namespace moesaic::model
