#include <array>

#include "base/json.h"
#include "hf/config_parts.h"
#include "hf/rope.h"

namespace moesaic::hf {
namespace {

using M = config::Model;

constexpr std::array kFields{Field{"hidden_size", &M::d_model, 4096},
                             Field{"num_hidden_layers", &M::layers, 32},
                             Field{"num_attention_heads", &M::heads, 32},
                             Field{"vocab_size", &M::vocab_size, 32000},
                             Field{"max_position_embeddings", &M::max_seq, 131072},
                             Field{"rms_norm_eps", &M::norm_eps, 1e-5},
                             Field{"tie_word_embeddings", &M::tie_embeddings, 0},
                             Field{"num_experts_per_tok", &M::top_k, 2},
                             Field{"num_local_experts", &M::experts, 8},
                             Field{"intermediate_size", &M::expert_d_ff, 14336},
                             Field{"sliding_window", &M::sliding_window, 0, 1, true}};

constexpr std::array kAliases{Alias{"num_local_experts", "num_experts"}};

void read(Reading& r) {
  read_heads(r, 8);
  read_rope(r, 1e6);
  check_experts(r, "num_local_experts");
  r.config.model.d_ff = r.config.model.expert_d_ff;
  r.config.router.normalize = true;
  r.fields.must_be("router_jitter_noise", 0.0);
  note_loss(r, "router_aux_loss_coef");
}

void write(const config::Model& model, const config::Router& /*router*/, Json& json) {
  write_heads(model, json);
  json["router_aux_loss_coef"] = 0.0;
}

constexpr std::array kRenames{Alias{".mlp.", ".block_sparse_moe."}, Alias{"gate_proj", "w1"},
                              Alias{"up_proj", "w3"}, Alias{"down_proj", "w2"}};

}  // namespace

const Family& mixtral() {
  static const Family family{"mixtral", "MixtralForCausalLM", kFields, kAliases, read, write,
                             kRenames};
  return family;
}

}  // namespace moesaic::hf
