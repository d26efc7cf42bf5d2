#include "model/transformer.h"

#include <fmt/format.h>

#include <cmath>

namespace moesaic::model {
namespace {

constexpr double kEmbeddingStd = 0.02;

// sqrt(2 / 5D) (Nguyen & Salazar 2019); what joins the residual stream shrinks with its 2L terms.
double init_std(const config::Model& model) {
  return std::sqrt(2.0 / (5.0 * static_cast<double>(model.d_model)));
}
double output_std(const config::Model& model) {
  return init_std(model) / std::sqrt(2.0 * static_cast<double>(model.layers));
}

Parameter& add_table(Parameters& parameters, const config::Model& model, const std::string& name,
                     bool in_products) {
  const Shape shape{model.vocab_size, model.d_model};
  return parameters.add({.shape = shape,
                         .tensors = {{name, shape, 0}},
                         .init_std = kEmbeddingStd,
                         .in_products = in_products});
}

Block::Ffn make_ffn(Parameters& parameters, const config::Model& model,
                    const config::Router& router, std::int64_t layer, int ep_rank, int ep_size) {
  const std::string prefix = fmt::format("model.layers.{}.mlp.", layer);
  if (layer < model.dense_layers) {
    return Swiglu(parameters, prefix, model.d_model, model.d_ff, init_std(model),
                  output_std(model));
  }
  return Moe(parameters, prefix, model, router, layer - model.dense_layers, ep_rank, ep_size,
             init_std(model), output_std(model));
}

std::vector<Block> make_blocks(Parameters& parameters, const config::Model& model,
                               const config::Router& router, int ep_rank, int ep_size) {
  std::vector<Block> blocks;
  for (std::int64_t layer = 0; layer < model.layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    const auto eps = static_cast<float>(model.norm_eps);
    const RmsNorm attention_norm(parameters, prefix + "input_layernorm.weight", model.d_model, eps);
    const Attention attention(parameters, prefix + "self_attn.",
                              {.d_model = model.d_model,
                               .heads = model.heads,
                               .kv_heads = model.kv_heads,
                               .head_dim = model.head_dim,
                               .rope_theta = model.rope_theta,
                               .init_std = init_std(model),
                               .output_std = output_std(model)});
    const RmsNorm ffn_norm(parameters, prefix + "post_attention_layernorm.weight", model.d_model,
                           eps);
    blocks.emplace_back(attention_norm, attention, ffn_norm,
                        make_ffn(parameters, model, router, layer, ep_rank, ep_size));
  }
  return blocks;
}

}  // namespace

Transformer::Transformer(Parameters& parameters, const config::Model& model,
                         const config::Router& router, int ep_rank, int ep_size)
    : embedding_(add_table(parameters, model, "model.embed_tokens.weight", model.tie_embeddings)),
      blocks_(make_blocks(parameters, model, router, ep_rank, ep_size)),
      norm_(parameters, "model.norm.weight", model.d_model, static_cast<float>(model.norm_eps)),
      head_(model.tie_embeddings ? embedding_
                                 : add_table(parameters, model, "lm_head.weight", true)) {
  for (std::int64_t layer = model.dense_layers; layer < model.layers; ++layer) {
    moe_layers_.push_back(layer);
  }
}

const Router& Transformer::router(std::int64_t moe_layer) const {
  const auto layer = static_cast<std::size_t>(moe_layers_[static_cast<std::size_t>(moe_layer)]);
  return blocks_[layer].moe()->router();
}

Tensor Transformer::forward(Context& ctx, Saved* saved) const {
  const PhaseScope phase(ctx.clock, Phase::kForward);
  if (saved != nullptr) {
    saved->blocks.resize(blocks_.size());
  }
  Tensor x = ctx.empty(DType::kF32, {ctx.batch.token.dim(0), embedding_.value.dim(1)});
  ctx.backend.embedding(embedding_.value, ctx.batch.token, x);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    x = blocks_[i].forward(ctx, x, saved != nullptr ? &saved->blocks[i] : nullptr);
  }
  return norm_.forward(ctx, x, saved != nullptr ? &saved->norm : nullptr);
}

void Transformer::backward(Context& ctx, const Tensor& dhidden, const Saved& saved) const {
  const PhaseScope phase(ctx.clock, Phase::kBackward);
  Tensor dx = norm_.backward(ctx, dhidden, saved.norm);
  for (std::size_t i = blocks_.size(); i > 0; --i) {
    dx = blocks_[i - 1].backward(ctx, dx, saved.blocks[i - 1]);
  }
  ctx.backend.embedding_backward(dx, ctx.batch.token, embedding_.grad);
}

void set_batch(Context& ctx, const MicroBatch& micro_batch) {
  ctx.host_batch = &micro_batch;
  ctx.batch = upload(ctx.backend, micro_batch);
}

}  // namespace moesaic::model
