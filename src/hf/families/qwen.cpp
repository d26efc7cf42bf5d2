#include <array>

#include "base/json.h"
#include "hf/config_parts.h"
#include "hf/rope.h"

// Qwen2-MoE and Qwen3-MoE.
namespace moesaic::hf {
namespace {

using M = config::Model;
using R = config::Router;

constexpr std::array kFields2{Field{"hidden_size", &M::d_model, 2048},
                              Field{"num_hidden_layers", &M::layers, 24},
                              Field{"num_attention_heads", &M::heads, 16},
                              Field{"vocab_size", &M::vocab_size, 151936},
                              Field{"max_position_embeddings", &M::max_seq, 32768},
                              Field{"rms_norm_eps", &M::norm_eps, 1e-6},
                              Field{"tie_word_embeddings", &M::tie_embeddings, 0},
                              Field{"num_experts_per_tok", &M::top_k, 4},
                              Field{"num_experts", &M::experts, 60},
                              Field{"intermediate_size", &M::d_ff, 5632},
                              Field{"moe_intermediate_size", &M::expert_d_ff, 1408},
                              Field{"shared_expert_intermediate_size", &M::shared_d_ff, 5632},
                              Field{"decoder_sparse_step", &M::moe_every, 1},
                              Field{"qkv_bias", &M::qkv_bias, 1},
                              Field{"norm_topk_prob", &R::normalize, 0}};

constexpr std::array kFields3{Field{"hidden_size", &M::d_model, 2048},
                              Field{"num_hidden_layers", &M::layers, 24},
                              Field{"num_attention_heads", &M::heads, 32},
                              Field{"vocab_size", &M::vocab_size, 151936},
                              Field{"max_position_embeddings", &M::max_seq, 32768},
                              Field{"rms_norm_eps", &M::norm_eps, 1e-6},
                              Field{"tie_word_embeddings", &M::tie_embeddings, 0},
                              Field{"num_experts_per_tok", &M::top_k, 8},
                              Field{"num_experts", &M::experts, 128},
                              Field{"intermediate_size", &M::d_ff, 6144},
                              Field{"moe_intermediate_size", &M::expert_d_ff, 768},
                              Field{"decoder_sparse_step", &M::moe_every, 1},
                              Field{"attention_bias", &M::qkv_bias, 0},
                              Field{"norm_topk_prob", &R::normalize, 0}};

constexpr std::array kAliases3{Alias{"num_experts", "num_local_experts"}};

/// What both have: grouped-query attention, and layers without experts by number.
void read_both(Reading& r, std::int64_t kv_heads) {
  read_heads(r, kv_heads);
  read_rope(r, 10000.0);
  check_experts(r, "num_experts");
  r.config.model.dense_at = r.fields.counts("mlp_only_layers", r.config.model.layers);
  note_loss(r, "router_aux_loss_coef");
}

void write_both(const config::Model& model, Json& json) {
  write_heads(model, json);
  json["mlp_only_layers"] = model.dense_at;
  json["use_sliding_window"] = model.sliding_window > 0;
  json["sliding_window"] = model.sliding_window > 0 ? Json(model.sliding_window) : Json(nullptr);
  json["router_aux_loss_coef"] = 0.0;
}

void read2(Reading& r) {
  read_both(r, 16);
  r.config.model.shared_experts = 1;
  r.config.model.shared_gate = true;
  HfFields& f = r.fields;
  const bool windows = f.flag("use_sliding_window", false);
  const auto types = f.texts("layer_types");
  if (!windows) {  // the width means nothing then
    f.ignore({"sliding_window"});
  }
  f.ignore({"max_window_layers"});
  if (windows && types.empty()) {
    f.conflict("use_sliding_window", {"layer_types"},
               "needs layer_types: versions of transformers differ in which layers have a window");
  } else if (!types.empty()) {
    read_windows(r, windows ? f.optional_count("sliding_window", 4096) : std::nullopt, types);
  }
}

void write2(const config::Model& model, const config::Router& /*router*/, Json& json) {
  write_both(model, json);
  json["layer_types"] = layer_types(model);
}

void read3(Reading& r) {
  read_both(r, 4);
  config::Model& m = r.config.model;
  m.qk_norm = config::QkNorm::kHead;
  m.output_bias = m.qkv_bias;
  HfFields& f = r.fields;
  if (!f.flag("use_sliding_window", false)) {
    f.ignore({"sliding_window", "max_window_layers"});
  } else if (f.count("max_window_layers", 0, 0) != 0) {
    f.problem("use_sliding_window",
              "needs max_window_layers = 0: versions of transformers differ in which layers have a "
              "window");
  } else {
    m.sliding_window = f.optional_count("sliding_window", 4096).value_or(0);
  }
}

void write3(const config::Model& model, const config::Router& /*router*/, Json& json) {
  write_both(model, json);
  json["max_window_layers"] = 0;
}

constexpr std::array kRenames2{Alias{".shared_experts.", ".shared_expert."}};

}  // namespace

const Family& qwen2_moe() {
  static const Family family{"qwen2_moe", "Qwen2MoeForCausalLM", kFields2, {}, read2, write2,
                             kRenames2};
  return family;
}

const Family& qwen3_moe() {
  static const Family family{"qwen3_moe", "Qwen3MoeForCausalLM", kFields3, kAliases3, read3,
                             write3};
  return family;
}

}  // namespace moesaic::hf
