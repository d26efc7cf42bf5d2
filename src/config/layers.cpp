#include "config/layers.h"

#include <algorithm>

namespace moesaic::config {
namespace {

bool contains(const std::vector<std::int64_t>& list, std::int64_t value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

}  // namespace

bool has_experts(const Model& model, std::int64_t layer) {
  return layer >= model.dense_layers && (layer + 1) % model.moe_every == 0 &&
         !contains(model.dense_at, layer);
}

std::vector<std::int64_t> moe_layers(const Model& model) {
  std::vector<std::int64_t> layers;
  for (std::int64_t layer = 0; layer < model.layers; ++layer) {
    if (has_experts(model, layer)) {
      layers.push_back(layer);
    }
  }
  return layers;
}

bool is_latent(const Model& model) { return model.kv_lora_rank > 0; }

bool is_windowed(const Model& model, std::int64_t layer) {
  return model.sliding_window > 0 &&
         (model.window_layers.empty() || contains(model.window_layers, layer));
}

std::int64_t key_width(const Model& model) {
  return is_latent(model) ? model.qk_nope_head_dim + model.qk_rope_head_dim : model.head_dim;
}

std::int64_t value_width(const Model& model) {
  return is_latent(model) ? model.v_head_dim : model.head_dim;
}

std::int64_t shared_width(const Model& model) {
  return model.shared_experts > 0 && model.shared_d_ff > 0
             ? model.shared_d_ff
             : model.shared_experts * model.expert_d_ff;
}

std::int64_t expert_ranks(const Parallel& parallel) {
  return parallel.ep * (parallel.expert_tp == 1 ? parallel.tp : 1);
}

}  // namespace moesaic::config
