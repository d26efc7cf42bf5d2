#include "plan/model_size.h"

#include <algorithm>
#include <string>

#include "config/pool.h"

namespace moesaic::plan {
namespace {

Count always(std::int64_t parameters) { return {parameters, parameters}; }

/// gate, up (width, D) and down (D, width).
std::int64_t gated_ff(std::int64_t d_model, std::int64_t width) { return 3 * d_model * width; }

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
  return std::max<std::int64_t>(0, model.layers - model.dense_layers);
}

GateSize gate_size(const config::Config& config) {
  const config::Model& m = config.model;
  const config::Router& router = config.router;
  const std::int64_t experts = config::expert_numbers(m, router);
  const bool previous_load = router.aux_scope == config::AuxScope::kBatch && router.aux_loss > 0.0;
  GateSize size;
  size.products = router.task_gate ? m.head_dim * (experts + m.d_model) : experts * m.d_model;
  size.tasks = router.task_gate ? std::ssize(router.task_names) * experts : 0;
  const int vectors =  // the measured load is always there
      1 + (router.balance == config::Balance::kBias ? 1 : 0) + (previous_load ? 1 : 0) +
      (router.gradient_buffer > 0 ? 3 : 0);
  size.state = vectors * experts;
  return size;
}

ModelSize model_size(const config::Config& config) {
  const config::Model& m = config.model;
  const std::int64_t moe = moe_layers(m);
  const std::int64_t query_width = m.heads * m.head_dim;
  const std::int64_t key_width = m.kv_heads * m.head_dim;
  const GateSize gate = gate_size(config);
  const std::string pool = config::pool_of(m, config.router, 0);
  const std::int64_t experts = config::count_of(pool, 'r') + config::count_of(pool, 's');
  const std::int64_t expert = gated_ff(m.d_model, m.expert_d_ff);

  ModelSize size;
  size.embedding = always(m.vocab_size * m.d_model);
  size.attention = always(m.layers * m.d_model * (2 * query_width + 2 * key_width));
  size.dense_ff = always((m.layers - moe) * gated_ff(m.d_model, m.d_ff));
  size.router = always(moe * (gate.products + gate.tasks + gate.state));
  size.experts = {moe * experts * expert, moe * m.top_k * expert};
  size.shared_experts = always(moe * m.shared_experts * expert);
  size.norms = always((2 * m.layers + 1) * m.d_model);
  size.head = always(m.tie_embeddings ? 0 : m.vocab_size * m.d_model);
  return size;
}

Flop flop_per_token(const config::Config& config, std::int64_t length) {
  const config::Model& m = config.model;
  const ModelSize size = model_size(config);
  const std::int64_t weights = size.attention.active + size.dense_ff.active +
                               moe_layers(m) * gate_size(config).products + size.experts.active +
                               size.shared_experts.active + m.vocab_size * m.d_model;
  // A token sees (length + 1) / 2 keys on average; a key costs a product of heads x head_dim for
  // its score and one for its value.
  const double keys = 0.5 * static_cast<double>(length + 1);
  const double attention = 4.0 * keys * static_cast<double>(m.layers * m.heads * m.head_dim);
  const double forward = 2.0 * static_cast<double>(weights) + attention;
  return {forward, 3.0 * forward};
}

}  // namespace moesaic::plan
