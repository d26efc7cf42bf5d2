#include "plan/model_size.h"

#include <algorithm>
#include <string>

#include "config/layers.h"
#include "config/pool.h"

namespace moesaic::plan {
namespace {

Count always(std::int64_t parameters) { return {parameters, parameters}; }

/// gate, up (width, D) and down (D, width).
std::int64_t gated_ff(std::int64_t d_model, std::int64_t width) { return 3 * d_model * width; }

/// Keys that a token of a sequence sees on average, of at most `window`.
double mean_keys(std::int64_t length, std::int64_t window) {
  const auto n = static_cast<double>(length);
  const auto w = static_cast<double>(std::min(length, window));
  return w - 0.5 * w * (w - 1.0) / n;
}

}  // namespace

std::array<std::pair<std::string_view, Count>, 8> ModelSize::classes() const {
  return {{{"embedding", embedding},
           {"attention", attention},
           {"dense layers", dense_ff},
           {"router", router},
           {"experts", experts},
           {"shared experts", shared_experts},
           {"norms", norms},
           {"head", head}}};
}

Count ModelSize::sum() const {
  Count all;
  for (const auto& [name, count] : classes()) {
    all.total += count.total;
    all.active += count.active;
  }
  return all;
}

std::int64_t moe_layers(const config::Model& model) {
  return std::ssize(config::moe_layers(model));
}

std::int64_t AttentionSize::products(const config::Model& model) const {
  return model.heads * by_head + model.kv_heads * by_kv_head + shared;
}

std::int64_t AttentionSize::vectors(const config::Model& model) const {
  return model.heads * head_vectors + model.kv_heads * kv_head_vectors + shared_vectors +
         output_bias;
}

AttentionSize attention_size(const config::Model& m) {
  const std::int64_t k = config::key_width(m);
  const std::int64_t v = config::value_width(m);
  AttentionSize size;
  size.output_bias = m.output_bias ? m.d_model : 0;
  if (config::is_latent(m)) {
    const bool direct = m.q_lora_rank == 0;
    size.by_head = (direct ? m.d_model : m.q_lora_rank) * k +
                   m.kv_lora_rank * (m.qk_nope_head_dim + v) + v * m.d_model;
    size.shared = m.d_model * (m.q_lora_rank + m.kv_lora_rank + m.qk_rope_head_dim);
    size.shared_vectors = m.q_lora_rank + m.kv_lora_rank;
    return size;
  }
  const bool whole_norm = m.qk_norm == config::QkNorm::kProjection;
  size.by_head = 2 * k * m.d_model;
  size.by_kv_head = 2 * k * m.d_model;
  size.head_vectors = (m.qkv_bias ? k : 0) + (whole_norm ? k : 0) + (m.sinks ? 1 : 0);
  size.kv_head_vectors = (m.qkv_bias ? 2 * k : 0) + (whole_norm ? k : 0);
  size.shared_vectors = m.qk_norm == config::QkNorm::kHead ? 2 * k : 0;
  return size;
}

std::int64_t expert_size(const config::Model& m) {
  return gated_ff(m.d_model, m.expert_d_ff) + (m.expert_bias ? 2 * m.expert_d_ff + m.d_model : 0);
}

GateSize gate_size(const config::Config& config) {
  const config::Model& m = config.model;
  const config::Router& router = config.router;
  const std::int64_t experts = config::expert_numbers(m, router);
  const bool previous_load = router.aux_scope == config::AuxScope::kBatch && router.aux_loss > 0.0;
  GateSize size;
  size.products = router.task_gate ? m.head_dim * (experts + m.d_model) : experts * m.d_model;
  size.tasks = (router.task_gate ? std::ssize(router.task_names) * experts : 0) +
               (router.gate_bias ? experts : 0);
  const int vectors =  // the measured load is always there
      1 + (router.balance == config::Balance::kBias ? 1 : 0) + (previous_load ? 1 : 0) +
      (router.gradient_buffer > 0 ? 3 : 0);
  size.state = vectors * experts;
  return size;
}

ModelSize model_size(const config::Config& config) {
  const config::Model& m = config.model;
  const std::int64_t moe = plan::moe_layers(m);
  const AttentionSize attention = attention_size(m);
  const GateSize gate = gate_size(config);
  const std::string expert_pool = config::expert_pool_of(m, config.router, 0);
  const std::int64_t experts =
      config::count_of(expert_pool, 'r') + config::count_of(expert_pool, 's');
  const std::int64_t expert = expert_size(m);
  const std::int64_t shared = gated_ff(m.d_model, config::shared_width(m)) +
                              (m.shared_experts > 0 && m.shared_gate ? m.d_model : 0);

  ModelSize size;
  size.embedding = always(m.vocab_size * m.d_model);
  size.attention = always(m.layers * (attention.products(m) + attention.vectors(m)));
  size.dense_ff = always((m.layers - moe) * gated_ff(m.d_model, m.d_ff));
  size.router = always(moe * (gate.products + gate.tasks + gate.state));
  size.experts = {moe * experts * expert, moe * m.top_k * expert};
  size.shared_experts = always(moe * shared);
  size.norms = always((2 * m.layers + 1) * m.d_model);
  size.head = always(m.tie_embeddings ? 0 : m.vocab_size * m.d_model);
  return size;
}

Flop flop_per_token(const config::Config& config, std::int64_t length) {
  const config::Model& m = config.model;
  const ModelSize size = model_size(config);
  const std::int64_t moe = plan::moe_layers(m);
  const std::int64_t weights = m.layers * attention_size(m).products(m) + size.dense_ff.active +
                               moe * gate_size(config).products +
                               moe * m.top_k * gated_ff(m.d_model, m.expert_d_ff) +
                               size.shared_experts.active + m.vocab_size * m.d_model;
  // A key costs a product of all heads' width for its score and one for its value.
  double keys = 0.0;
  for (std::int64_t layer = 0; layer < m.layers; ++layer) {
    keys += mean_keys(length, config::is_windowed(m, layer) ? m.sliding_window : length);
  }
  const double attention =
      2.0 * keys * static_cast<double>(m.heads * (config::key_width(m) + config::value_width(m)));
  const double forward = 2.0 * static_cast<double>(weights) + attention;
  return {forward, 3.0 * forward};
}

}  // namespace moesaic::plan
