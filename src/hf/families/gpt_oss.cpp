#include <array>

#include "base/json.h"
#include "hf/config_parts.h"
#include "hf/rope.h"
#include "hf/safetensors/safetensors.h"
#include "hf/tensors.h"

namespace moesaic::hf {
namespace {

using M = config::Model;

constexpr std::array kFields{Field{"hidden_size", &M::d_model, 2880},
                             Field{"num_hidden_layers", &M::layers, 36},
                             Field{"num_attention_heads", &M::heads, 64},
                             Field{"vocab_size", &M::vocab_size, 201088},
                             Field{"max_position_embeddings", &M::max_seq, 131072},
                             Field{"rms_norm_eps", &M::norm_eps, 1e-5},
                             Field{"tie_word_embeddings", &M::tie_embeddings, 0},
                             Field{"num_experts_per_tok", &M::top_k, 4},
                             Field{"num_local_experts", &M::experts, 128},
                             Field{"intermediate_size", &M::expert_d_ff, 2880},
                             Field{"attention_bias", &M::qkv_bias, 1},
                             Field{"swiglu_limit", &M::swiglu_limit, 7.0}};

constexpr std::array kAliases{Alias{"num_experts_per_tok", "experts_per_token"},
                              Alias{"num_local_experts", "num_experts"}};

void read(Reading& r) {
  HfFields& f = r.fields;
  config::Model& m = r.config.model;
  read_heads(r, 8, 64);
  read_rope(r, 150000.0,
            {{"rope_type", "yarn"},
             {"factor", 32.0},
             {"truncate", false},
             {"original_max_position_embeddings", 4096}});
  check_experts(r, "num_local_experts");
  m.d_ff = m.expert_d_ff;
  m.output_bias = m.qkv_bias;
  m.sinks = true;
  if (m.swiglu_limit == 0.0) {
    f.problem("swiglu_limit", "must be above 0");
  }
  m.expert_bias = true;
  r.config.router.gate_bias = true;
  r.config.router.normalize = true;
  f.must_be("swiglu_alpha", 1.702);
  f.ignore({"initial_context_length"});  // rope_scaling has it
  note_loss(r, "router_aux_loss_coef");
  auto types = f.texts("layer_types");
  for (std::int64_t i = 0; !f.has("layer_types") && i < m.layers; ++i) {
    types.emplace_back(i % 2 == 0 ? "sliding_attention" : "full_attention");
  }
  read_windows(r, f.optional_count("sliding_window", 128), types);
}

void write(const config::Model& model, const config::Router& /*router*/, Json& json) {
  write_heads(model, json);
  json["sliding_window"] = model.sliding_window > 0 ? Json(model.sliding_window) : Json(nullptr);
  json["layer_types"] = layer_types(model);
  json["router_aux_loss_coef"] = 0.0;
}

constexpr std::array kRenames{Alias{".mlp.gate.", ".mlp.router."}};

/// The experts of a layer are one tensor, stored (in, out), gate and up by turns.
HfView stacked(const config::Model& model, const std::string& prefix, const std::string& tensor,
               std::int64_t expert) {
  const bool down = tensor.starts_with("down_proj.");
  const bool bias = tensor.ends_with(".bias");
  const std::int64_t turns = down ? 1 : 2;
  const std::int64_t out = turns * (down ? model.d_model : model.expert_d_ff);
  HfView view;
  view.tensor = prefix + (down ? "experts.down_proj" : "experts.gate_up_proj");
  if (bias) {
    view.tensor += "_bias";
    view.shape = {model.experts, out};
    view.strides = {turns};
  } else {
    view.shape = {model.experts, down ? model.expert_d_ff : model.d_model, out};
    view.strides = {turns, out};
  }
  view.first = expert * row_major(view.shape)[0] + (tensor.starts_with("up_proj.") ? 1 : 0);
  return view;
}

}  // namespace

const Family& gpt_oss() {
  static const Family family{
      "gpt_oss", "GptOssForCausalLM", kFields, kAliases, read, write, kRenames, stacked};
  return family;
}

}  // namespace moesaic::hf
