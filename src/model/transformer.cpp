#include "model/transformer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "backend/transfer.h"
#include "config/layers.h"
#include "model/context_parallel.h"

namespace moesaic::model {
namespace {

// sqrt(2 / 5D) (Nguyen & Salazar 2019); what joins the residual stream shrinks with its 2L terms.
double init_std(const config::Model& model) {
  return std::sqrt(2.0 / (5.0 * static_cast<double>(model.d_model)));
}
double output_std(const config::Model& model) {
  return init_std(model) / std::sqrt(2.0 * static_cast<double>(model.layers));
}

Head make_head(Parameters& parameters, const std::optional<Embedding>& embedding,
               const config::Model& model, const Placement& placement) {
  const Slice own = placement.of(model.vocab_size);
  if (!model.tie_embeddings) {
    return {add_table(parameters, model, placement, kHeadName, true), own};
  }
  return {embedding ? embedding->table()
                    : add_table(parameters, model, placement, kEmbeddingName, true),
          own};
}

Block::Ffn make_ffn(Parameters& parameters, const config::Model& model,
                    const config::Router& router, std::int64_t layer,
                    std::span<const std::int64_t> moe_layers,
                    const std::vector<routing::ExpertPool>& expert_pools,
                    const std::vector<std::string>& tasks, const Placement& placement) {
  const std::string prefix = fmt::format("model.layers.{}.mlp.", layer);
  const auto found = std::lower_bound(moe_layers.begin(), moe_layers.end(), layer);
  if (found == moe_layers.end() || *found != layer) {
    return Swiglu(parameters, prefix, model.d_model, model.d_ff, init_std(model), output_std(model),
                  placement);
  }
  const std::int64_t moe_layer = found - moe_layers.begin();
  return Moe(parameters, prefix, model, router, moe_layer,
             expert_pools[static_cast<std::size_t>(moe_layer)], tasks, init_std(model),
             output_std(model), placement);
}

Block::SelfAttention make_attention(Parameters& parameters, const config::Model& model,
                                    std::int64_t layer, const Placement& placement) {
  const std::string prefix = fmt::format("model.layers.{}.self_attn.", layer);
  if (config::is_latent(model)) {
    return LatentAttention(parameters, prefix, model, layer, init_std(model), output_std(model),
                           placement);
  }
  return Attention(parameters, prefix, model, layer, init_std(model), output_std(model), placement);
}

Block make_block(Parameters& parameters, const config::Model& model, const config::Router& router,
                 std::int64_t layer, std::span<const std::int64_t> moe_layers,
                 const std::vector<routing::ExpertPool>& expert_pools,
                 const std::vector<std::string>& tasks, const Placement& placement) {
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const auto eps = static_cast<float>(model.norm_eps);
  const RmsNorm attention_norm(parameters, prefix + "input_layernorm.weight", model.d_model, eps,
                               placement);
  Block::SelfAttention attention = make_attention(parameters, model, layer, placement);
  const RmsNorm ffn_norm(parameters, prefix + "post_attention_layernorm.weight", model.d_model, eps,
                         placement);
  return {attention_norm, std::move(attention), ffn_norm,
          make_ffn(parameters, model, router, layer, moe_layers, expert_pools, tasks, placement)};
}

}  // namespace

Transformer::Transformer(Parameters& parameters, const config::Model& model,
                         const config::Router& router, const Placement& placement,
                         const routing::GateState& gates)
    : width_(model.d_model),
      layers_(model.layers),
      experts_(routing::expert_numbers(model, router, gates)),
      lowest_part_(parameters.roles().lowest_part()),
      moe_layers_(config::moe_layers(model)) {
  if (placement.is_first()) {
    embedding_.emplace(parameters, model, placement);
  }
  for (std::int64_t moe_layer = 0; moe_layer < std::ssize(moe_layers_); ++moe_layer) {
    expert_pools_.push_back(routing::make_expert_pool(
        routing::expert_pool_of(model, router, gates, moe_layer), placement.expert_ranks,
        gates.loads.empty() ? std::span<const float>()
                            : gates.loads.at(static_cast<std::size_t>(moe_layer))));
  }
  const int all_chunks = placement.stages * placement.chunks;
  for (int c = placement.stage; c < all_chunks; c += placement.stages) {
    Chunk& chunk = chunks_.emplace_back();
    chunk.layers = layers_of_chunk(model.layers, c, all_chunks);
    for (std::int64_t layer = chunk.layers.begin; layer < chunk.layers.end(); ++layer) {
      parameters.begin_part();
      chunk.first_part = chunk.blocks.empty() ? parameters.part() : chunk.first_part;
      chunk.blocks.push_back(make_block(parameters, model, router, layer, moe_layers_,
                                        expert_pools_, gates.tasks, placement));
    }
  }
  parameters.begin_part();
  last_part_ = parameters.part();
  if (placement.is_last()) {
    norm_.emplace(parameters, "model.norm.weight", model.d_model,
                  static_cast<float>(model.norm_eps), placement);
    head_.emplace(make_head(parameters, embedding_, model, placement));
  }
}

const Moe* Transformer::moe(std::int64_t moe_layer) const {
  const std::int64_t layer = moe_layers_[static_cast<std::size_t>(moe_layer)];
  for (const Chunk& chunk : chunks_) {
    if (layer >= chunk.layers.begin && layer < chunk.layers.end()) {
      return chunk.blocks[static_cast<std::size_t>(layer - chunk.layers.begin)].moe();
    }
  }
  return nullptr;
}

std::int64_t Transformer::page_elements() const {
  std::int64_t elements = 0;
  for (const Chunk& chunk : chunks_) {
    for (const Block& block : chunk.blocks) {
      elements += block.page_elements();
    }
  }
  return elements;
}

PagedCache Transformer::make_cache(const Context& ctx, std::int64_t pages) const {
  PagedCache cache(static_cast<std::size_t>(chunks_.back().layers.end()));
  for (const Chunk& chunk : chunks_) {
    for (std::size_t i = 0; i < chunk.blocks.size(); ++i) {
      cache[static_cast<std::size_t>(chunk.layers.begin) + i] =
          chunk.blocks[i].make_cache(ctx, pages);
    }
  }
  return cache;
}

Tensor Transformer::forward(Context& ctx, int chunk, const Tensor& x, Saved* saved) const {
  const PhaseScope phase(ctx.clock, Phase::kForward);
  const std::vector<Block>& blocks = at(chunk).blocks;
  const std::size_t first = saved != nullptr ? first_in_backward(at(chunk)) : blocks.size();
  if (saved != nullptr) {
    saved->blocks.resize(ctx.batch.recompute ? 0 : blocks.size());
    saved->inputs.resize(ctx.batch.recompute ? blocks.size() : 0);
    saved->routes.assign(saved->inputs.size(), {});
  }
  Tensor h = begins(chunk) ? embedding_->forward(ctx) : x;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const bool keep = i >= first;
    if (keep && ctx.batch.recompute) {
      saved->inputs[i] = h;
      ctx.batch.routes = &saved->routes[i];
    }
    h = blocks[i].forward(ctx, h, keep && !ctx.batch.recompute ? &saved->blocks[i] : nullptr);
    ctx.batch.routes = nullptr;
  }
  const bool keep = saved != nullptr && wants_hidden_gradient();
  return ends(chunk) ? norm_->forward(ctx, h, keep ? &saved->norm : nullptr) : h;
}

std::size_t Transformer::first_in_backward(const Chunk& chunk) const {
  const std::int64_t below = lowest_part_ - 1 - chunk.layers.begin;
  return static_cast<std::size_t>(std::clamp<std::int64_t>(below, 0, chunk.layers.count));
}

bool Transformer::has_backward(int chunk) const {
  return ends(chunk) || lowest_part_ <= at(chunk).layers.end();
}

bool Transformer::sends_gradient(int chunk) const {
  return !begins(chunk) && lowest_part_ <= at(chunk).layers.begin;
}

Tensor Transformer::backward(Context& ctx, int chunk, const Tensor& dy, const Saved& saved) const {
  const PhaseScope phase(ctx.clock, Phase::kBackward);
  const std::vector<Block>& blocks = at(chunk).blocks;
  Tensor dx = dy;
  if (ends(chunk)) {
    dx = wants_hidden_gradient() ? norm_->backward(ctx, dy, saved.norm) : dy;
    ctx.tell(&Observer::on_part_done, {.part = last_part_});
  }
  for (std::size_t i = blocks.size(); i > first_in_backward(at(chunk)); --i) {
    const Block& block = blocks[i - 1];
    if (saved.inputs.empty()) {
      dx = block.backward(ctx, dx, saved.blocks[i - 1]);
    } else {
      Context again = ctx.unobserved();
      Routes routes = saved.routes[i - 1];
      again.batch.routes = &routes;
      Block::Saved recomputed;
      block.forward(again, saved.inputs[i - 1], &recomputed);
      dx = block.backward(ctx, dx, recomputed);
    }
    ctx.tell(&Observer::on_part_done, {.part = at(chunk).first_part + static_cast<int>(i) - 1});
  }
  if (begins(chunk) && lowest_part_ == 0) {
    embedding_->backward(ctx, dx);
  }
  return sends_gradient(chunk) ? dx : Tensor();
}

void set_batch(Context& ctx, const data::MicroBatch& micro_batch) {
  ctx.batch.whole = &micro_batch;
  ctx.batch.share = share_context(ctx, micro_batch);
  ctx.batch.host = ctx.cp.group().size() > 1 ? &ctx.batch.share->rows : &micro_batch;
  ctx.batch.device = {
      .position = to_device(ctx.backend, ctx.batch.host->position, {ctx.batch.host->size()}),
      .keys = seen_keys(ctx, 0),
      .runs = ctx.batch.cache != nullptr ? upload(ctx.backend, micro_batch.runs) : PagedRuns{}};
}

}  // namespace moesaic::model
