#include "config/layers.h"
#include "hf/config.h"

namespace moesaic::hf {
namespace {

void canonicalise_attention(config::Model& m) {
  if (config::is_latent(m)) {
    m.kv_heads = m.head_dim = 0;
  } else {
    m.kv_heads = m.kv_heads == 0 ? m.heads : m.kv_heads;
    m.head_dim = m.head_dim == 0 ? m.d_model / m.heads : m.head_dim;
  }
  if (m.sliding_window == 0 || std::ssize(m.window_layers) == m.layers) {
    m.window_layers.clear();
  }
  const config::Model absent;
  if (m.rope_scaling != config::RopeScaling::kYarn) {
    m.rope_original_max_seq = absent.rope_original_max_seq;
    m.rope_beta_fast = absent.rope_beta_fast;
    m.rope_beta_slow = absent.rope_beta_slow;
    m.rope_attention_factor = absent.rope_attention_factor;
    m.rope_mscale = absent.rope_mscale;
    m.rope_mscale_all_dim = absent.rope_mscale_all_dim;
    m.rope_truncate = absent.rope_truncate;
  }
  if (m.rope_scaling == config::RopeScaling::kNone) {
    m.rope_factor = absent.rope_factor;
  }
}

/// Which layers are dense is said by their list, and one shared expert has the width of all.
void canonicalise_ffn(config::Model& m) {
  m.expert_d_ff = m.expert_d_ff == 0 ? m.d_model : m.expert_d_ff;
  m.d_ff = m.d_ff == 0 ? 4 * m.d_model : m.d_ff;
  std::vector<std::int64_t> dense;
  for (std::int64_t layer = 0; layer < m.layers; ++layer) {
    if (!config::has_experts(m, layer)) {
      dense.push_back(layer);
    }
  }
  m.d_ff = dense.empty() ? m.expert_d_ff : m.d_ff;
  m.dense_at = dense;
  m.dense_layers = 0;
  m.moe_every = 1;
  m.shared_d_ff = config::shared_width(m);
  m.shared_experts = m.shared_d_ff > 0 ? 1 : 0;
  m.shared_gate = m.shared_gate && m.shared_d_ff > 0;
}

}  // namespace

void canonicalise(config::Model& model, config::Router& router) {
  model.path.clear();
  canonicalise_attention(model);
  canonicalise_ffn(model);
  const config::Router absent;
  router.capacity = absent.capacity;
  router.capacity_factor = absent.capacity_factor;
  router.overflow = absent.overflow;
  router.spare_experts = absent.spare_experts;
  router.gradient_buffer = absent.gradient_buffer;
  router.aux_loss = absent.aux_loss;
  router.z_loss = absent.z_loss;
  router.bias_rate = absent.bias_rate;
  router.aux_scope = absent.aux_scope;
  router.eval_capacity = absent.eval_capacity;
  router.force = absent.force;
  router.tasks = absent.tasks;
  if (router.balance != config::Balance::kBias) {
    router.balance = config::Balance::kNone;
  }
  if (router.groups == 1) {
    router.top_groups = absent.top_groups;
    router.group_score = absent.group_score;
  }
}

}  // namespace moesaic::hf
