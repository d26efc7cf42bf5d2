#include "model/layers/router.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "backend/transfer.h"
#include "data/context_chunks.h"
#include "model/context_parallel.h"
#include "model/layers/linear.h"
#include "model/tensor_parallel.h"
#include "routing/forced_routing.h"

namespace moesaic::model {
namespace {

RouteOptions route_options(const config::Model& model, const config::Router& router) {
  return {.score = router.score == config::Score::kSigmoid ? RouterScore::kSigmoid
                                                           : RouterScore::kSoftmax,
          .top_k = model.top_k,
          .candidates = router.candidates,
          .groups = router.groups,
          .top_groups = router.top_groups,
          .group_best = router.group_score == config::GroupScore::kMax ? 1 : 2,
          .threshold = static_cast<float>(router.threshold),
          .temperature = static_cast<float>(router.temperature),
          .normalize = router.normalize,
          .scale = static_cast<float>(router.scale)};
}

// Collective over tp and cp: what is known of all rows of the micro-batch. (t, W) -> (T, W)
Tensor gathered(Context& ctx, const Tensor& own) {
  return whole_rows(ctx, gathered_rows(ctx, own));
}

// A tensor that every rank of tp has, and that sees its own rows alone there.
ParameterSpec gate_spec(const std::string& name, const Shape& shape, double init_std,
                        const Placement& placement) {
  return {.shape = shape,
          .tensors = {copied_tensor(name, shape, placement)},
          .init_std = init_std,
          .sum = SumOver::kStage,
          .in_products = false};
}

// Its first dim counts experts.
PublicTensor expert_rows(PublicTensor tensor) {
  tensor.rows = TensorRows::kExperts;
  return tensor;
}

ParameterSpec state_spec(const std::string& name, std::int64_t experts, double value,
                         const Placement& placement) {
  return {.shape = {experts},
          .tensors = {expert_rows(copied_tensor(name, {experts}, placement))},
          .init_value = value,
          .in_products = false,
          .state = true};
}

// One vector over the experts for each task, zeros at the start.
ParameterSpec task_spec(const std::string& prefix, const std::vector<std::string>& tasks,
                        std::int64_t experts, const Placement& placement) {
  ParameterSpec spec{.shape = {std::ssize(tasks) * experts},
                     .tensors = {},
                     .sum = SumOver::kStage,
                     .in_products = false};
  for (const std::string& task : tasks) {
    spec.tensors.push_back(expert_rows(
        copied_tensor(fmt::format("{}gate.task_weight.{}", prefix, task), {experts}, placement)));
    spec.tensors.back().may_be_missing = true;
  }
  return spec;
}

}  // namespace

Router::Router(Parameters& parameters, const std::string& prefix, const config::Model& model,
               const config::Router& options, std::int64_t moe_layer,
               const routing::ExpertPool& expert_pool, const std::vector<std::string>& tasks,
               double init_std, const Placement& placement)
    : options_(route_options(model, options)),
      force_(options.force),
      aux_scope_(options.aux_scope),
      aux_loss_(options.aux_loss),
      z_loss_(options.z_loss),
      moe_layer_(moe_layer),
      tasks_(std::ssize(tasks)),
      expert_pool_(expert_pool),
      gate_(parameters.add(
          gate_spec(prefix + "gate.weight",
                    {expert_pool.size(), options.task_gate ? model.head_dim : model.d_model},
                    init_std, placement))),
      adapter_(Adapter::of(parameters, gate_.spec, placement, true)),
      load_(parameters.add(state_spec(prefix + "gate.load", expert_pool.size(), 0.0, placement))) {
  gate_.spec.tensors.front().rows = TensorRows::kExperts;
  gate_.spec.adaptable = true;
  load_.spec.tensors.front().may_be_missing = true;
  if (options.gate_bias) {
    ParameterSpec spec = gate_spec(prefix + "gate.bias", {expert_pool.size()}, 0.0, placement);
    spec.tensors.front().rows = TensorRows::kExperts;
    gate_bias_ = &parameters.add(std::move(spec));
  }
  if (options.task_gate) {
    query_ = &parameters.add(gate_spec(prefix + "gate.query_proj.weight",
                                       {model.head_dim, model.d_model}, init_std, placement));
  }
  if (options.task_gate && tasks_ > 0) {
    task_weights_ = &parameters.add(task_spec(prefix, tasks, expert_pool.size(), placement));
  }
  if (options.balance == config::Balance::kBias) {
    bias_ = &parameters.add(
        state_spec(prefix + "gate.e_score_correction_bias", expert_pool.size(), 0.0, placement));
  }
  if (options.aux_scope == config::AuxScope::kBatch && options.aux_loss > 0.0) {
    previous_load_ =
        &parameters.add(state_spec(prefix + "gate.previous_load", expert_pool.size(),
                                   1.0 / static_cast<double>(expert_pool.size()), placement));
    previous_load_->spec.tensors.front().may_be_missing = true;
  }
}

// (t, E) fp32: logits of the gate, before anything of the task is added.
Tensor Router::logits(Context& ctx, const Tensor& x, Saved& saved) const {
  saved.x = is_trained() || adapter_ ? x : Tensor();
  Tensor gate_in = ctx.as(DType::kF32, x);
  if (query_ != nullptr) {
    saved.query = ctx.empty(DType::kF32, {x.dim(0), gate_.value.dim(1)});
    ctx.backend.matmul(gate_in, Transpose::kNo, query_->value, Transpose::kYes, saved.query,
                       Write::kOverwrite);
    ctx.backend.scale(saved.query, query_scale());
    gate_in = saved.query;
  }
  Tensor logits = ctx.empty(DType::kF32, {x.dim(0), expert_pool_.size()});
  ctx.backend.matmul(gate_in, Transpose::kNo, gate_.value, Transpose::kYes, logits,
                     Write::kOverwrite);
  if (adapter_) {
    adapter_->forward(ctx, gate_in, {}, logits, &saved.adapter);
  }
  if (gate_bias_ != nullptr) {
    ctx.backend.add_bias(logits, {}, gate_bias_->value);
  }
  return logits;
}

// 1 / sqrt(d), as in attention.
float Router::query_scale() const {
  return 1.0F / std::sqrt(static_cast<float>(gate_.value.dim(1)));
}

// The row of the task weights of each own token; outside of them: none. (t) int32
Tensor Router::own_tasks(Context& ctx) const {
  const Slice own = own_rows(ctx);
  std::vector<std::int32_t> rows;
  for (std::int64_t i = own.begin; i < own.end(); ++i) {
    rows.push_back(ctx.batch.host->task[static_cast<std::size_t>(i)] - 1);
  }
  return to_device(ctx.backend, rows, {own.count});
}

// Which sum of choices and shares a token of the whole micro-batch belongs to.
std::span<const std::int32_t> Router::segments(const Context& ctx) const {
  return aux_scope_ == config::AuxScope::kSequence
             ? std::span<const std::int32_t>(ctx.batch.whole->sample)
             : std::span<const std::int32_t>();
}

// (S, E) fp32, the gradient of the auxiliary loss by the normalised scores.
Tensor Router::aux_gradient(Context& ctx, const Choice& choice) const {
  const std::span<const std::int32_t> segment = segments(ctx);
  const Shape shape{segment.empty() ? 1 : segment.back() + 1, expert_pool_.size()};
  if (aux_loss_ == 0.0) {
    return ctx.zeros(DType::kF32, shape);
  }
  const Tensor of_rows =
      segment.empty() ? Tensor()
                      : to_device(ctx.backend, ctx.batch.whole->sample, {std::ssize(segment)});
  Tensor daux = ctx.empty(DType::kF32, shape);
  ctx.backend.aux_gradient(choice.all_expert, of_rows,
                           previous_load_ != nullptr ? previous_load_->value : Tensor(),
                           {.regular = expert_pool_.count(ExpertState::kRegular),
                            .aux = aux_loss_,
                            .tokens = static_cast<double>(ctx.batch.step_tokens)},
                           daux);
  return daux;
}

void Router::force(Context& ctx, const Tensor& scores, Choice& choice) const {
  std::vector<std::int32_t> regular;
  for (std::int32_t e = 0; e < expert_pool_.size(); ++e) {
    if (expert_pool_.is(e, ExpertState::kRegular)) {
      regular.push_back(e);
    }
  }
  const std::int64_t experts = std::ssize(regular);
  const routing::ForcedRouting routing{
      .force = force_,
      .experts = experts,
      .top_k = options_.top_k,
      .hot = force_ == config::Force::kRotating ? (ctx.batch.step + moe_layer_) % experts : 0};
  std::vector<std::int32_t> choices;
  for (const Slice rows : in_whole(ctx, own_rows(ctx))) {
    const auto of_slice = routing::forced_choices(routing, rows.begin, rows.count);
    choices.insert(choices.end(), of_slice.begin(), of_slice.end());
  }
  for (std::int32_t& c : choices) {
    c = regular[static_cast<std::size_t>(c)];
  }
  choice.expert = to_device(ctx.backend, choices, choice.expert.shape());
  ctx.backend.route_weights(options_, scores, choice.expert, choice.weight);
}

Router::Choice Router::forward(Context& ctx, const Tensor& x, Saved& s) const {
  const std::int64_t tokens = x.dim(0);
  const std::int64_t experts = expert_pool_.size();
  const std::span<const std::int32_t> segment = segments(ctx);
  const std::int64_t segments = segment.empty() ? 1 : segment.back() + 1;
  s.routed = {.state = to_device(ctx.backend, expert_pool_.state_numbers(), {experts}),
              .bias = bias_ != nullptr ? bias_->value : ctx.zeros(DType::kF32, {experts}),
              .added = {},
              .segment = {},
              .logits = logits(ctx, x, s),
              .scores = ctx.empty(DType::kF32, {tokens, experts}),
              .selection = ctx.empty(DType::kF32, {tokens, experts}),
              .choice = ctx.empty(DType::kI32, {tokens, options_.top_k}),
              .weight = ctx.empty(DType::kF32, {tokens, options_.top_k}),
              .shares = ctx.empty(DType::kF32, {2, segments, experts}),
              .sums = ctx.empty(DType::kF32, {2, 2})};
  if (task_weights_ != nullptr) {
    s.routed.added = ctx.empty(DType::kF32, {tokens, experts});
    ctx.backend.embedding(task_weights_->value.reshaped({tasks_, experts}), own_tasks(ctx),
                          s.routed.added);
  }
  if (!segment.empty()) {
    s.routed.segment = to_device(
        ctx.backend, data::of_rows(ctx.batch.whole->sample, in_whole(ctx, own_rows(ctx)), 1),
        {tokens});
  }
  ctx.backend.route(options_, s.routed);
  Choice choice{
      .expert = s.routed.choice, .weight = s.routed.weight, .all_expert = {}, .all_weight = {}};
  if (force_ != config::Force::kNone) {
    force(ctx, s.routed.scores, choice);
  }
  choice.all_expert = gathered(ctx, choice.expert);
  choice.all_weight = gathered(ctx, choice.weight);
  s.choice = choice.expert;
  s.daux = aux_gradient(ctx, choice);
  ctx.tell(&Observer::on_gate,
           {.device = ctx,
            .moe_layer = moe_layer_,
            .regular = expert_pool_.count(ExpertState::kRegular),
            .routed = s.routed,
            .choice = choice.all_expert,
            .segment = segment,
            .load = previous_load_ != nullptr ? previous_load_->value : Tensor()});
  s.routed.added = s.routed.bias = {};
  return choice;
}

Tensor Router::all_selection(Context& ctx, Saved& saved) const {
  return gathered(ctx, std::exchange(saved.routed.selection, {}));
}

void Router::move(Context& ctx, const std::vector<std::int32_t>& experts, Choice& choice,
                  Saved& saved) const {
  if (!experts.empty()) {
    const std::vector<Slice> own = in_whole(ctx, own_rows(ctx));
    choice.expert =
        to_device(ctx.backend, data::of_rows(experts, own, options_.top_k), choice.expert.shape());
    ctx.backend.route_weights(options_, saved.routed.scores, choice.expert, choice.weight);
    saved.choice = choice.expert;
  }
  choice.all_weight = gathered(ctx, choice.weight);
}

Tensor Router::backward(Context& ctx, const Tensor& dweight, const Saved& saved) const {
  const auto dz = static_cast<float>(z_loss_ / static_cast<double>(ctx.batch.step_tokens));
  const Tensor dlogits = ctx.empty(DType::kF32, saved.routed.logits.shape());
  ctx.backend.route_backward(options_, saved.routed, saved.choice, dweight, saved.daux, dz,
                             dlogits);
  if (task_weights_ != nullptr) {
    add_gradient(ctx, *task_weights_, [&](const Tensor& to) {
      ctx.backend.embedding_backward(dlogits, own_tasks(ctx),
                                     to.reshaped({tasks_, expert_pool_.size()}));
    });
  }
  if (gate_bias_ != nullptr) {
    add_bias_gradient(ctx, dlogits, {}, *gate_bias_);
  }
  const Tensor x = saved.x.defined() ? ctx.as(DType::kF32, saved.x) : Tensor();
  const Tensor gate_in = query_ != nullptr ? saved.query : x;
  add_weight_gradient(ctx, dlogits, gate_in, {}, gate_);
  Tensor dgate_in = ctx.empty(DType::kF32, {dlogits.dim(0), gate_.value.dim(1)});
  ctx.backend.matmul(dlogits, Transpose::kNo, gate_.value, Transpose::kNo, dgate_in,
                     Write::kOverwrite);
  if (adapter_) {
    adapter_->backward(ctx, dlogits, gate_in, {}, saved.adapter, dgate_in);
  }
  if (query_ == nullptr) {
    return dgate_in;
  }
  ctx.backend.scale(dgate_in, query_scale());
  add_weight_gradient(ctx, dgate_in, x, {}, *query_);
  Tensor dx = ctx.empty(DType::kF32, {dlogits.dim(0), query_->value.dim(1)});
  ctx.backend.matmul(dgate_in, Transpose::kNo, query_->value, Transpose::kNo, dx,
                     Write::kOverwrite);
  return dx;
}

}  // namespace moesaic::model
