#include "model/layers/experts.h"

#include <fmt/format.h>

#include "model/layers/linear.h"

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
      tensors.push_back(split_tensor(fmt::format("{}{}.{}", prefix, e, name), shape, dim, hidden));
    }
  }
  return tensors;
}

Slice own_hidden(std::int64_t hidden, const Placement& placement) {
  return placement.folded ? Slice{0, hidden} : placement.of(hidden);
}

}  // namespace

Experts::Experts(Parameters& parameters, const std::string& prefix,
                 std::span<const std::int32_t> numbers, const config::Model& model, double init_std,
                 double output_std, bool buffered, const Placement& placement)
    : hidden_(own_hidden(model.expert_d_ff, placement).count),
      limit_(static_cast<float>(model.swiglu_limit)),
      gate_up_(parameters.add(
          {.shape = {std::ssize(numbers), 2 * hidden_, model.d_model},
           .tensors = expert_tensors(prefix, numbers, {"gate_proj.weight", "up_proj.weight"},
                                     {model.expert_d_ff, model.d_model}, 0,
                                     own_hidden(model.expert_d_ff, placement)),
           .init_std = init_std,
           .sum = SumOver::kExpertReplicas,
           .adaptable = true,
           .buffered = buffered})),
      gate_up_adapter_(Adapter::of(parameters, gate_up_.spec, placement, !placement.folded)),
      down_(parameters.add({.shape = {std::ssize(numbers), model.d_model, hidden_},
                            .tensors = expert_tensors(prefix, numbers, {"down_proj.weight"},
                                                      {model.d_model, model.expert_d_ff}, 1,
                                                      own_hidden(model.expert_d_ff, placement)),
                            .init_std = output_std,
                            .sum = SumOver::kExpertReplicas,
                            .adaptable = true,
                            .buffered = buffered})),
      down_adapter_(Adapter::of(parameters, down_.spec, placement, !placement.folded)),
      adds_down_bias_(placement.folded || placement.tp_rank == 0) {
  if (model.expert_bias) {
    add_biases(parameters, prefix, numbers, model, buffered, placement);
  }
}

// Vectors, so that their rows are single elements, as the tensors of single experts need it.
void Experts::add_biases(Parameters& parameters, const std::string& prefix,
                         std::span<const std::int32_t> numbers, const config::Model& model,
                         bool buffered, const Placement& placement) {
  const Slice hidden = own_hidden(model.expert_d_ff, placement);
  ParameterSpec spec{.shape = {std::ssize(numbers) * 2 * hidden_},
                     .tensors = expert_tensors(prefix, numbers, {"gate_proj.bias", "up_proj.bias"},
                                               {model.expert_d_ff}, 0, hidden),
                     .sum = SumOver::kExpertReplicas,
                     .in_products = false,
                     .buffered = buffered};
  gate_up_bias_ = &parameters.add(spec);
  spec.shape = {std::ssize(numbers) * model.d_model};
  spec.tensors =
      expert_tensors(prefix, numbers, {"down_proj.bias"}, {model.d_model}, 0, {0, model.d_model});
  for (PublicTensor& tensor : spec.tensors) {
    tensor.copies = placement.folded ? 1 : placement.tp;
    tensor.copy = placement.folded ? 0 : placement.tp_rank;
  }
  down_bias_ = &parameters.add(spec);
}

std::vector<Parameter*> Experts::parameters() const {
  std::vector<Parameter*> all{&gate_up_, &down_};
  if (gate_up_bias_ != nullptr) {
    all.insert(all.end(), {gate_up_bias_, down_bias_});
  }
  return all;
}

Tensor Experts::forward(Context& ctx, const Tensor& x, const Tensor& offsets, Saved* saved) const {
  const std::int64_t rows = x.dim(0);
  const Tensor gate_up = ctx.empty(ctx.compute, {rows, 2 * hidden_});
  multiply(ctx, x, offsets, gate_up_, gate_up);
  if (gate_up_adapter_) {
    gate_up_adapter_->forward(ctx, x, offsets, gate_up,
                              saved != nullptr ? &saved->gate_up_adapter : nullptr);
  }
  if (gate_up_bias_ != nullptr) {
    ctx.backend.add_bias(gate_up, offsets, gate_up_bias_->value);
  }
  const Tensor activated = ctx.empty(ctx.compute, {rows, hidden_});
  ctx.backend.swiglu(gate_up, limit_, activated);
  Tensor y = ctx.empty(ctx.compute, x.shape());
  multiply(ctx, activated, offsets, down_, y);
  if (down_adapter_) {
    down_adapter_->forward(ctx, activated, offsets, y,
                           saved != nullptr ? &saved->down_adapter : nullptr);
  }
  if (down_bias_ != nullptr && adds_down_bias_) {
    ctx.backend.add_bias(y, offsets, down_bias_->value);
  }
  if (saved != nullptr) {
    saved->x = gate_up_.is_trained() || gate_up_adapter_ ? x : Tensor();
    saved->gate_up = gate_up;
  }
  return y;
}

Tensor Experts::backward(Context& ctx, const Tensor& dy, const Tensor& offsets,
                         const Saved& saved) const {
  const std::int64_t rows = dy.dim(0);
  const Tensor activated = ctx.empty(ctx.compute, {rows, hidden_});
  if (down_.is_trained() || down_adapter_) {
    ctx.backend.swiglu(saved.gate_up, limit_, activated);  // cheaper to make again than to keep
  }
  add_weight_gradient(ctx, dy, activated, offsets, down_);
  if (down_bias_ != nullptr) {
    add_bias_gradient(ctx, dy, offsets, *down_bias_);
  }
  // Its memory serves the gradient, unless an adapter still reads it.
  const Tensor dactivated = down_adapter_ ? ctx.empty(ctx.compute, {rows, hidden_}) : activated;
  ctx.backend.grouped_matmul_dx(dy, offsets, down_.compute, dactivated);
  if (down_adapter_) {
    down_adapter_->backward(ctx, dy, activated, offsets, saved.down_adapter, dactivated);
  }
  const Tensor dgate_up = ctx.empty(ctx.compute, saved.gate_up.shape());
  ctx.backend.swiglu_backward(dactivated, saved.gate_up, limit_, dgate_up);
  add_weight_gradient(ctx, dgate_up, saved.x, offsets, gate_up_);
  if (gate_up_bias_ != nullptr) {
    add_bias_gradient(ctx, dgate_up, offsets, *gate_up_bias_);
  }
  Tensor dx = ctx.empty(ctx.compute, dy.shape());
  ctx.backend.grouped_matmul_dx(dgate_up, offsets, gate_up_.compute, dx);
  if (gate_up_adapter_) {
    gate_up_adapter_->backward(ctx, dgate_up, saved.x, offsets, saved.gate_up_adapter, dx);
  }
  return dx;
}

}  // namespace moesaic::model
