#include "model/router.h"

#include "model/forced_routing.h"
#include "model/tensor_parallel.h"

namespace moesaic::model {
namespace {

RouteOptions route_options(const config::Model& model, const config::Router& router) {
  return {.score = router.score == config::Score::kSigmoid ? RouterScore::kSigmoid
                                                           : RouterScore::kSoftmax,
          .top_k = model.top_k,
          .normalize = router.normalize,
          .scale = static_cast<float>(router.scale)};
}

}  // namespace

Router::Router(Parameters& parameters, const std::string& prefix, const config::Model& model,
               const config::Router& options, std::int64_t moe_layer, double init_std,
               const Placement& place)
    : options_(route_options(model, options)),
      force_(options.force),
      aux_loss_(options.aux_loss),
      z_loss_(options.z_loss),
      moe_layer_(moe_layer),
      experts_(model.experts),
      gate_(parameters.add({.shape = {model.experts, model.d_model},
                            .tensors = {copied_tensor(prefix + "gate.weight",
                                                      {model.experts, model.d_model}, place)},
                            .init_std = init_std,
                            .sum = SumOver::kStage,
                            .in_products = false})) {
  if (options.balance == config::Balance::kBias) {
    bias_ = &parameters.add({.shape = {model.experts},
                             .tensors = {copied_tensor(prefix + "gate.e_score_correction_bias",
                                                       {model.experts}, place)},
                             .in_products = false,
                             .trained = false});
  }
}

void Router::force(Context& ctx, const Tensor& scores, Choice& choice) const {
  const std::int64_t tokens = scores.dim(0);
  const ForcedRouting routing{
      .force = force_,
      .experts = experts_,
      .top_k = options_.top_k,
      .hot = force_ == config::Force::kRotating ? (ctx.step + moe_layer_) % experts_ : 0};
  const std::vector<std::int32_t> choices = forced_choices(routing, own_rows(ctx).begin, tokens);
  const std::vector<float> weights = weights_of(choices, to_host_f32(ctx.backend, scores), routing,
                                                options_.normalize, options_.scale);
  choice.expert = to_device(ctx.backend, choices, choice.expert.shape());
  choice.weight = to_device(ctx.backend, weights, choice.weight.shape());
}

Router::Choice Router::forward(Context& ctx, const Tensor& x, Saved* saved) const {
  const std::int64_t tokens = x.dim(0);
  const Tensor logits = ctx.empty(DType::kF32, {tokens, experts_});
  ctx.backend.matmul(ctx.as(DType::kF32, x), Transpose::kNo, gate_.value, Transpose::kYes, logits,
                     Write::kOverwrite);
  const Tensor bias = bias_ != nullptr ? bias_->value : ctx.zeros(DType::kF32, {experts_});
  const Tensor scores = ctx.empty(DType::kF32, logits.shape());
  const Tensor stats = ctx.empty(DType::kF32, {experts_ + 2});
  Choice choice{.expert = ctx.empty(DType::kI32, {tokens, options_.top_k}),
                .weight = ctx.empty(DType::kF32, {tokens, options_.top_k}),
                .host_expert = {},
                .host_weight = {}};
  ctx.backend.route(logits, bias, options_, scores, choice.expert, choice.weight, stats);
  if (force_ != config::Force::kNone) {
    force(ctx, scores, choice);
  }
  const std::vector<std::int32_t> own_expert = to_host_i32(ctx.backend, choice.expert);
  const std::vector<float> own_weight = to_host_f32(ctx.backend, choice.weight);
  choice.host_expert = ctx.tp.group().all_gather(std::span(own_expert));
  choice.host_weight = ctx.tp.group().all_gather(std::span(own_weight));

  std::vector<double> counts(static_cast<std::size_t>(experts_), 0.0);
  for (const std::int32_t expert : choice.host_expert) {
    counts[static_cast<std::size_t>(expert)] += 1.0;
  }
  if (ctx.stats != nullptr && tokens > 0) {
    const std::vector<float> sums = to_host_f32(ctx.backend, stats);
    double aux = 0.0;  // times the tokens of this micro-batch, as all sums over tokens; own share
    for (std::size_t e = 0; e < counts.size(); ++e) {
      aux += counts[e] * static_cast<double>(sums[e]);
    }
    const auto layer_sums = ctx.stats->sums(moe_layer_);
    layer_sums[0] +=
        aux * static_cast<double>(experts_) / static_cast<double>(choice.host_expert.size());
    layer_sums[1] += static_cast<double>(sums[counts.size()]);
    layer_sums[2] += static_cast<double>(sums[counts.size() + 1]);
  }
  if (saved != nullptr) {
    *saved = {x, logits, scores, choice, counts};
  }
  return choice;
}

Tensor Router::backward(Context& ctx, const Tensor& dweight, const Saved& saved) const {
  // d aux / d P_te = E n_e / (K T), in a mean over the global batch's tokens.
  const auto choices = static_cast<double>(saved.choice.host_expert.size());
  std::vector<float> daux(saved.counts.size(), 0.0F);
  for (std::size_t e = 0; e < daux.size() && choices > 0.0; ++e) {
    daux[e] = static_cast<float>(aux_loss_ * static_cast<double>(experts_) * saved.counts[e] /
                                 (choices * static_cast<double>(ctx.step_tokens)));
  }
  const auto dz = static_cast<float>(z_loss_ / static_cast<double>(ctx.step_tokens));
  const Tensor dlogits = ctx.empty(DType::kF32, saved.logits.shape());
  ctx.backend.route_backward(dweight, saved.logits, saved.scores, saved.choice.expert, options_,
                             to_device(ctx.backend, daux, {experts_}), dz, dlogits);
  ctx.backend.matmul(dlogits, Transpose::kYes, ctx.as(DType::kF32, saved.x), Transpose::kNo,
                     gate_.grad, Write::kAdd);
  Tensor dx = ctx.empty(DType::kF32, saved.x.shape());
  ctx.backend.matmul(dlogits, Transpose::kNo, gate_.value, Transpose::kNo, dx, Write::kOverwrite);
  return dx;
}

}  // namespace moesaic::model
