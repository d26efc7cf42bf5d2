#include "model/experts.h"

#include <fmt/format.h>

namespace moesaic::model {
namespace {

// One tensor of each name for every expert, in order; `dim` is the one of length `hidden`.
std::vector<PublicTensor> expert_tensors(const std::string& prefix,
                                         std::span<const std::int32_t> numbers,
                                         const std::vector<std::string>& names, const Shape& shape,
                                         int dim, Slice hidden) {
  std::vector<PublicTensor> tensors;
  for (const std::int32_t e : numbers) {
    for (const std::string& name : names) {
      tensors.push_back(
          split_tensor(fmt::format("{}{}.{}.weight", prefix, e, name), shape, dim, hidden));
    }
  }
  return tensors;
}

Slice own_hidden(std::int64_t hidden, const Placement& place) {
  return place.folded ? Slice{0, hidden} : place.of(hidden);
}

}  // namespace

Experts::Experts(Parameters& parameters, const std::string& prefix,
                 std::span<const std::int32_t> numbers, std::int64_t d_model, std::int64_t hidden,
                 double init_std, double output_std, bool buffered, const Placement& place)
    : hidden_(own_hidden(hidden, place).count),
      gate_up_(parameters.add(
          {.shape = {std::ssize(numbers), 2 * hidden_, d_model},
           .tensors = expert_tensors(prefix, numbers, {"gate_proj", "up_proj"}, {hidden, d_model},
                                     0, own_hidden(hidden, place)),
           .init_std = init_std,
           .sum = SumOver::kExpertReplicas,
           .buffered = buffered})),
      down_(parameters.add(
          {.shape = {std::ssize(numbers), d_model, hidden_},
           .tensors = expert_tensors(prefix, numbers, {"down_proj"}, {d_model, hidden}, 1,
                                     own_hidden(hidden, place)),
           .init_std = output_std,
           .sum = SumOver::kExpertReplicas,
           .buffered = buffered})) {}

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
