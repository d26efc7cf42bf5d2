#include <array>

#include "base/json.h"
#include "hf/config_parts.h"
#include "hf/rope.h"

namespace moesaic::hf {
namespace {

using M = config::Model;

constexpr std::array kFields{Field{"hidden_size", &M::d_model, 2048},
                             Field{"num_hidden_layers", &M::layers, 16},
                             Field{"num_attention_heads", &M::heads, 16},
                             Field{"vocab_size", &M::vocab_size, 50304},
                             Field{"max_position_embeddings", &M::max_seq, 4096},
                             Field{"rms_norm_eps", &M::norm_eps, 1e-5},
                             Field{"tie_word_embeddings", &M::tie_embeddings, 0},
                             Field{"num_experts_per_tok", &M::top_k, 8},
                             Field{"num_experts", &M::experts, 64},
                             Field{"intermediate_size", &M::expert_d_ff, 2048},
                             Field{"attention_bias", &M::qkv_bias, 0},
                             Field{"clip_qkv", &M::clip_qkv, 0, 1, true},
                             Field{"norm_topk_prob", &config::Router::normalize, 0}};

constexpr std::array kAliases{Alias{"num_experts", "num_local_experts"}};

void read(Reading& r) {
  read_heads(r);
  read_rope(r, 10000.0);
  check_experts(r, "num_experts");
  config::Model& m = r.config.model;
  m.d_ff = m.expert_d_ff;
  m.qk_norm = config::QkNorm::kProjection;
  m.output_bias = m.qkv_bias;
  note_loss(r, "router_aux_loss_coef");
}

void write(const config::Model& model, const config::Router& /*router*/, Json& json) {
  write_heads(model, json);
  json["router_aux_loss_coef"] = 0.0;
}

}  // namespace

const Family& olmoe() {
  static const Family family{"olmoe", "OlmoeForCausalLM", kFields, kAliases, read, write};
  return family;
}

}  // namespace moesaic::hf
