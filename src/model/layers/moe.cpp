#include "model/layers/moe.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "backend/transfer.h"
#include "config/layers.h"
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

// Which expert computes each choice of the whole micro-batch, and who is told.
Moe::Targets Moe::targets(Context& ctx, const Tensor& x, Saved& saved) const {
  const routing::SlotRule rule = this->rule(ctx);
  Router::Choice choice = router_.forward(ctx, own_part(ctx, x), saved.router);
  Targets targets{.expert = ctx.empty(DType::kI32, choice.all_expert.shape()), .weight = {}};
  const Tensor counts = ctx.empty(DType::kI32, {3, expert_pool_.size()});
  routing::DispatchPlan plan;
  const bool may_move = rule.slots > 0 && overflow_ != config::Overflow::kDrop;
  if (may_move) {
    plan = move(ctx, rule, choice, saved);
    targets.expert = to_device(ctx.backend, plan.target, choice.all_expert.shape());
  } else {
    ctx.backend.drop_overflow(choice.all_expert, choice.all_weight, rule.slots, targets.expert,
                              counts);
  }
  ctx.tell(&Observer::on_route, {.device = ctx,
                                 .moe_layer = moe_layer_,
                                 .batch = *ctx.batch.whole,
                                 .expert_pool = expert_pool_,
                                 .choice = choice.all_expert,
                                 .weight = choice.all_weight,
                                 .counts = counts,
                                 .plan = may_move ? &plan : nullptr,
                                 .rule = rule});
  const std::vector<Slice> sent = in_whole(ctx, sent_rows(ctx));
  targets.expert = picked_rows(ctx, targets.expert, sent);
  targets.weight = folded_ ? choice.weight : picked_rows(ctx, choice.all_weight, sent);
  saved.router.routed.selection = {};
  return targets;
}

// The host settles which choices go elsewhere: all experts' in one order. It waits for them.
routing::DispatchPlan Moe::move(Context& ctx, const routing::SlotRule& rule, Router::Choice& choice,
                                Saved& saved) const {
  HostCopies copies;
  copies.add(choice.all_expert);
  copies.add(choice.all_weight);
  copies.add(router_.all_selection(ctx, saved.router));
  copies.fetch(ctx.backend);
  const std::span<const std::int32_t> chosen = copies.at<std::int32_t>(0);
  routing::DispatchPlan plan = routing::plan_dispatch(
      {top_k_, chosen, copies.at<float>(1), copies.at<float>(2)}, expert_pool_, rule);
  std::vector<std::int32_t> experts = plan.target;
  for (std::size_t i = 0; i < experts.size(); ++i) {
    experts[i] = experts[i] >= 0 ? experts[i] : chosen[i];
  }
  if (!plan.has_rerouted()) {
    experts.clear();
  }
  router_.move(ctx, experts, choice, saved.router);
  return plan;
}

// The rows that this rank sends: at most one for each choice, and no more than there are slots.
Moe::SentRows Moe::route(Context& ctx, const Tensor& x, Saved& saved) const {
  const Targets targets = this->targets(ctx, x, saved);
  const std::vector<std::int32_t> order = expert_order(expert_pool_);
  const std::int64_t slots = rule(ctx).slots;
  const std::int64_t choices = targets.expert.numel();
  const std::int64_t most = slots > 0 ? std::min(choices, std::ssize(order) * slots) : choices;
  SentRows rows{.source = ctx.empty(DType::kI32, {most}),
                .offsets = ctx.empty(DType::kI32, {std::ssize(order) + 1})};
  saved.position = ctx.empty(DType::kI32, targets.expert.shape());
  saved.weight = targets.weight;
  ctx.backend.lay_rows(targets.expert, to_device(ctx.backend, order, {std::ssize(order)}),
                       saved.position, rows.source, rows.offsets);
  return rows;
}

// Those of the block's first forward, where this one computes it again.
Routes Moe::routes_of(Context& ctx, const SentRows& rows) const {
  if (ctx.batch.routes != nullptr && ctx.batch.routes->offsets.defined()) {
    return *ctx.batch.routes;
  }
  Routes routes = plan_routes(ctx, rows.offsets, rows.source.dim(0), expert_pool_);
  if (ctx.batch.routes != nullptr) {
    *ctx.batch.routes = routes;
  }
  return routes;
}

Tensor Moe::forward(Context& ctx, const Tensor& x, Saved* saved) const {
  Saved local;
  Saved& s = saved != nullptr ? *saved : local;
  const Slice sent = sent_rows(ctx);
  SentRows plan;
  {
    const PhaseScope phase(ctx.clock, Phase::kRouter);
    plan = route(ctx, x, s);
  }
  comm::Exchange exchange;
  {
    const PhaseScope phase(ctx.clock, Phase::kDispatch);
    s.routes = routes_of(ctx, plan);
    const std::int64_t rows =
        std::accumulate(s.routes.send_rows.begin(), s.routes.send_rows.end(), std::int64_t{0});
    const Tensor picked = ctx.empty(x.dtype(), {rows, x.dim(1)});
    ctx.backend.gather_rows(x.rows(sent.begin, sent.count), plan.source.rows(0, rows), picked);
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
