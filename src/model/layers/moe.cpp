#include "model/layers/moe.h"

#include <fmt/format.h>

#include <utility>

#include "backend/transfer.h"
#include "config/layers.h"
#include "data/context_chunks.h"
#include "model/context_parallel.h"
#include "model/tensor_parallel.h"

namespace moesaic::model {

namespace {

Tensor own_part(const Context& ctx, const Tensor& rows) {
  const Slice own = own_rows(ctx);
  return rows.rows(own.begin, own.count);
}

ParameterSpec buffer_spec(const std::string& prefix, std::int64_t experts,
                          const Placement& placement) {
  ParameterSpec spec{.shape = {3 * experts}, .tensors = {}, .in_products = false, .state = true};
  for (const char* const name : {"steps", "tokens", "updates"}) {
    spec.tensors.push_back(
        copied_tensor(fmt::format("{}experts_buffer.{}", prefix, name), {experts}, placement));
    spec.tensors.back().rows = TensorRows::kExpertsAnew;
  }
  return spec;
}

}  // namespace

Moe::Moe(Parameters& parameters, const std::string& prefix, const config::Model& model,
         const config::Router& options, std::int64_t moe_layer,
         const routing::ExpertPool& expert_pool, const std::vector<std::string>& tasks,
         double init_std, double output_std, const Placement& placement)
    : moe_layer_(moe_layer),
      top_k_(model.top_k),
      capacity_(options.capacity),
      capacity_factor_(options.capacity_factor),
      overflow_(options.overflow),
      folded_(placement.folded),
      expert_pool_(expert_pool),
      router_(parameters, prefix, model, options, moe_layer, expert_pool, tasks, init_std,
              placement),
      experts_(parameters, prefix + "experts.",
               expert_pool.of_rank[static_cast<std::size_t>(placement.expert_rank)], model,
               init_std, output_std, options.gradient_buffer > 0, placement),
      expert_rank_(static_cast<std::size_t>(placement.expert_rank)) {
  if (options.gradient_buffer > 0) {
    buffer_state_ = &parameters.add(buffer_spec(prefix, expert_pool.size(), placement));
  }
  if (model.shared_experts > 0) {
    shared_.emplace(parameters, prefix + "shared_experts.", model.d_model,
                    config::shared_width(model), init_std, output_std, placement);
    if (model.shared_gate) {
      shared_->add_gate(parameters, prefix + "shared_expert_gate.weight", model.d_model, init_std,
                        placement);
    }
  }
}

std::span<const std::int32_t> Moe::expert_ids() const { return expert_pool_.of_rank[expert_rank_]; }

routing::SlotRule Moe::rule(const Context& ctx) const {
  if (ctx.batch.dropless) {
    return {};
  }
  return {expert_slots(capacity_, capacity_factor_, ctx.batch.whole->size() * top_k_,
                       expert_pool_.count(ExpertState::kRegular)),
          overflow_};
}

Slice Moe::sent_rows(const Context& ctx) const {
  return folded_ ? own_rows(ctx) : Slice{0, ctx.batch.host->size()};
}

// The rows that this rank sent, added to the term of the shared experts or, without these, to none.
Tensor Moe::add_to_shared(Context& ctx, const Tensor& sent, const Tensor& shared) const {
  const Slice rows = sent_rows(ctx);
  const std::int64_t all = ctx.batch.host->size();
  if (!shared_ && rows.count == all) {
    return sent;
  }
  Tensor term = shared_ ? shared : ctx.zeros(DType::kF32, {all, sent.dim(1)});
  ctx.backend.add(sent, term.rows(rows.begin, rows.count));
  return term;
}

Tensor Moe::forward(Context& ctx, const Tensor& x, Saved* saved) const {
  Saved local;
  Saved& s = saved != nullptr ? *saved : local;
  const routing::SlotRule rule = this->rule(ctx);
  const Slice sent = sent_rows(ctx);
  routing::DispatchPlan plan;
  {
    const PhaseScope phase(ctx.clock, Phase::kRouter);
    const bool may_move = rule.slots > 0 && overflow_ != config::Overflow::kDrop;
    Router::Choice choice = router_.forward(ctx, own_part(ctx, x), may_move, s.router);
    const routing::DispatchPlan whole = routing::plan_dispatch(
        {top_k_, choice.host_expert, choice.host_weight, choice.host_selection}, expert_pool_,
        rule);
    if (whole.has_rerouted()) {
      router_.move(ctx, whole, choice, s.router);
    }
    ctx.tell(&Observer::on_route, {.device = ctx,
                                   .moe_layer = moe_layer_,
                                   .batch = *ctx.batch.whole,
                                   .expert_pool = expert_pool_,
                                   .plan = whole,
                                   .choice = choice.host_expert,
                                   .weight = choice.host_weight,
                                   .slots = rule.slots});
    const std::vector<Slice> rows = in_whole(ctx, sent);
    plan = routing::part_of(whole, rows);
    const Shape choices{sent.count, top_k_};
    s.position = to_device(ctx.backend, plan.position, choices);
    s.weight =
        folded_ ? choice.weight
                : to_device(ctx.backend, data::of_rows(choice.host_weight, rows, top_k_), choices);
  }
  const std::int64_t rows = std::ssize(plan.source);
  comm::Exchange exchange;
  {
    const PhaseScope phase(ctx.clock, Phase::kDispatch);
    const Tensor picked = ctx.empty(x.dtype(), {rows, x.dim(1)});
    ctx.backend.gather_rows(x.rows(sent.begin, sent.count),
                            to_device(ctx.backend, plan.source, {rows}), picked);
    s.routes = plan_routes(ctx, plan.rows, expert_pool_);
    exchange = start_dispatch(ctx, picked, s.routes);
  }
  // While the rows are on their way.
  const Tensor shared =
      shared_ ? shared_->forward(ctx, x, saved != nullptr ? &s.shared : nullptr) : Tensor();
  Tensor grouped;
  {
    const PhaseScope phase(ctx.clock, Phase::kDispatch);
    grouped = finish_dispatch(ctx, std::move(exchange), s.routes);
  }
  {
    const PhaseScope phase(ctx.clock, Phase::kExperts);
    const Tensor met = grouped;
    grouped = experts_.forward(ctx, met, s.routes.offsets, saved != nullptr ? &s.experts : nullptr);
    ctx.tell(&Observer::on_expert_output, {.device = ctx,
                                           .moe_layer = moe_layer_,
                                           .x = met,
                                           .offsets = s.routes.offsets,
                                           .y = grouped,
                                           .terms = !folded_});
  }
  Tensor y = ctx.empty(DType::kF32, {sent.count, x.dim(1)});
  {
    const PhaseScope phase(ctx.clock, Phase::kCombine);
    s.rows = combine(ctx, grouped, s.routes);
    ctx.backend.combine_rows(s.rows, s.position, s.weight, y);
  }
  return add_to_shared(ctx, y, shared);
}

Tensor Moe::backward(Context& ctx, const Tensor& dy, const Saved& saved) const {
  const Slice sent = sent_rows(ctx);
  const Tensor drows = ctx.empty(ctx.compute, saved.rows.shape());
  const Tensor dweight = ctx.empty(DType::kF32, {sent.count, top_k_});
  comm::Exchange exchange;
  {
    const PhaseScope phase(ctx.clock, Phase::kDispatch);
    ctx.backend.combine_rows_backward(dy.rows(sent.begin, sent.count), saved.rows, saved.position,
                                      saved.weight, drows, dweight);
    exchange = start_dispatch(ctx, drows, saved.routes);
  }
  const Tensor dshared = shared_ ? shared_->backward(ctx, dy, saved.shared) : Tensor();
  Tensor grouped;
  {
    const PhaseScope phase(ctx.clock, Phase::kDispatch);
    grouped = finish_dispatch(ctx, std::move(exchange), saved.routes);
  }
  {
    const PhaseScope phase(ctx.clock, Phase::kExperts);
    grouped = experts_.backward(ctx, grouped, saved.routes.offsets, saved.experts);
  }
  Tensor drouted = ctx.empty(DType::kF32, {sent.count, dy.dim(1)});
  {
    const PhaseScope phase(ctx.clock, Phase::kCombine);
    ctx.backend.combine_rows(combine(ctx, grouped, saved.routes), saved.position, {}, drouted);
  }
  Tensor dx = add_to_shared(ctx, drouted, dshared);
  Tensor own_dweight = dweight;
  if (!folded_) {  // each rank has the product with its term of the experts' outputs
    ctx.tp.all_reduce_sum(dweight);
    own_dweight = own_part(ctx, dweight);
  }
  const PhaseScope phase(ctx.clock, Phase::kRouter);
  ctx.backend.add(router_.backward(ctx, own_dweight, saved.router), own_part(ctx, dx));
  return dx;
}

}  // namespace moesaic::model
