#include "model/moe.h"

#include <algorithm>
#include <cmath>

namespace moesaic::model {

Moe::Moe(Parameters& parameters, const std::string& prefix, const config::Model& model,
         const config::Router& options, std::int64_t moe_layer, int ep_rank, int ep_size,
         double init_std, double output_std)
    : moe_layer_(moe_layer),
      top_k_(model.top_k),
      experts_count_(model.experts),
      capacity_(options.capacity),
      capacity_factor_(options.capacity_factor),
      router_(parameters, prefix, model, options, moe_layer, init_std),
      experts_(parameters, prefix + "experts.", ep_rank * (model.experts / ep_size),
               model.experts / ep_size, model.d_model, model.expert_d_ff, init_std, output_std) {
  if (model.shared_experts > 0) {
    shared_.emplace(parameters, prefix + "shared_experts.", model.d_model,
                    model.shared_experts * model.expert_d_ff, init_std, output_std);
  }
}

std::int64_t Moe::slots(std::int64_t tokens) const {
  if (capacity_factor_ > 0.0) {
    return static_cast<std::int64_t>(
        std::ceil(capacity_factor_ * static_cast<double>(tokens * top_k_) /
                  static_cast<double>(experts_count_)));
  }
  return capacity_;
}

void Moe::count(Context& ctx, const DispatchPlan& plan, std::span<const std::int32_t> choice,
                std::int64_t capacity) const {
  if (ctx.stats == nullptr || choice.empty()) {
    return;
  }
  const std::int64_t largest = *std::max_element(plan.kept.begin(), plan.kept.end());
  const auto slots = static_cast<double>(capacity > 0 ? capacity : largest);
  for (std::size_t e = 0; e < plan.kept.size(); ++e) {
    ctx.stats->chosen(moe_layer_)[e] += static_cast<double>(plan.chosen[e]);
    ctx.stats->dropped(moe_layer_)[e] += static_cast<double>(plan.chosen[e] - plan.kept[e]);
    ctx.stats->processed(moe_layer_)[e] += static_cast<double>(plan.kept[e]);
    ctx.stats->slots(moe_layer_)[e] += slots;
  }
  const auto by_task = ctx.stats->by_task(moe_layer_);
  for (std::size_t i = 0; i < choice.size(); ++i) {
    const std::size_t task = ctx.host_batch->task[i / static_cast<std::size_t>(top_k_)];
    by_task[task * plan.kept.size() + static_cast<std::size_t>(choice[i])] += 1.0;
  }
}

Tensor Moe::forward(Context& ctx, const Tensor& x, Saved* saved) const {
  Saved local;
  Saved& s = saved != nullptr ? *saved : local;
  const std::int64_t tokens = x.dim(0);
  const Router::Choice choice = router_.forward(ctx, x, saved != nullptr ? &s.router : nullptr);
  const std::int64_t capacity = ctx.dropless ? 0 : slots(tokens);
  const DispatchPlan plan =
      plan_dispatch(choice.host_expert, choice.host_weight, top_k_, experts_count_, capacity);
  count(ctx, plan, choice.host_expert, capacity);

  const std::int64_t rows = std::ssize(plan.source);
  s.position = to_device(ctx.backend, plan.position, {tokens, top_k_});
  Tensor grouped;
  {
    const PhaseScope phase(ctx.clock, Phase::kDispatch);
    const Tensor sent = ctx.empty(x.dtype(), {rows, x.dim(1)});
    ctx.backend.gather_rows(x, to_device(ctx.backend, plan.source, {rows}), sent);
    s.routes = plan_routes(ctx, plan.kept);
    grouped = dispatch(ctx, sent, s.routes);
  }
  {
    const PhaseScope phase(ctx.clock, Phase::kExperts);
    grouped =
        experts_.forward(ctx, grouped, s.routes.offsets, saved != nullptr ? &s.experts : nullptr);
  }
  Tensor y = ctx.empty(DType::kF32, x.shape());
  {
    const PhaseScope phase(ctx.clock, Phase::kCombine);
    s.rows = combine(ctx, grouped, s.routes);
    ctx.backend.combine_rows(s.rows, s.position, choice.weight, y);
  }
  if (shared_) {
    ctx.backend.add(shared_->forward(ctx, x, saved != nullptr ? &s.shared : nullptr), y);
  }
  return y;
}

Tensor Moe::backward(Context& ctx, const Tensor& dy, const Saved& saved) const {
  const Tensor drows = ctx.empty(ctx.compute, saved.rows.shape());
  const Tensor dweight = ctx.empty(DType::kF32, {dy.dim(0), top_k_});
  Tensor grouped;
  {
    const PhaseScope phase(ctx.clock, Phase::kDispatch);
    ctx.backend.combine_rows_backward(dy, saved.rows, saved.position, saved.router.choice.weight,
                                      drows, dweight);
    grouped = dispatch(ctx, drows, saved.routes);
  }
  {
    const PhaseScope phase(ctx.clock, Phase::kExperts);
    grouped = experts_.backward(ctx, grouped, saved.routes.offsets, saved.experts);
  }
  Tensor dx = ctx.empty(DType::kF32, dy.shape());
  {
    const PhaseScope phase(ctx.clock, Phase::kCombine);
    ctx.backend.combine_rows(combine(ctx, grouped, saved.routes), saved.position, {}, dx);
  }
  ctx.backend.add(router_.backward(ctx, dweight, saved.router), dx);
  if (shared_) {
    ctx.backend.add(shared_->backward(ctx, dy, saved.shared), dx);
  }
  return dx;
}

}  // namespace moesaic::model
