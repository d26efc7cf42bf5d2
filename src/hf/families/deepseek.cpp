#include <array>

#include "base/json.h"
#include "config/layers.h"
#include "hf/config_parts.h"
#include "hf/rope.h"

// DeepSeek-V2 and V3: latent attention, dense first layers, and experts in groups.
namespace moesaic::hf {
namespace {

using M = config::Model;
using R = config::Router;

constexpr std::array kFields2{Field{"hidden_size", &M::d_model, 4096},
                              Field{"num_hidden_layers", &M::layers, 32},
                              Field{"num_attention_heads", &M::heads, 32},
                              Field{"vocab_size", &M::vocab_size, 102400},
                              Field{"max_position_embeddings", &M::max_seq, 2048},
                              Field{"rms_norm_eps", &M::norm_eps, 1e-6},
                              Field{"tie_word_embeddings", &M::tie_embeddings, 0},
                              Field{"q_lora_rank", &M::q_lora_rank, 1536, 1, true},
                              Field{"kv_lora_rank", &M::kv_lora_rank, 512},
                              Field{"qk_nope_head_dim", &M::qk_nope_head_dim, 128},
                              Field{"qk_rope_head_dim", &M::qk_rope_head_dim, 64},
                              Field{"v_head_dim", &M::v_head_dim, 128},
                              Field{"num_experts_per_tok", &M::top_k, 0},
                              Field{"n_routed_experts", &M::experts, 64},
                              Field{"intermediate_size", &M::d_ff, 11008},
                              Field{"moe_intermediate_size", &M::expert_d_ff, 1407},
                              Field{"routed_scaling_factor", &R::scale, 1.0}};

constexpr std::array kFields3{Field{"hidden_size", &M::d_model, 7168},
                              Field{"num_hidden_layers", &M::layers, 61},
                              Field{"num_attention_heads", &M::heads, 128},
                              Field{"vocab_size", &M::vocab_size, 129280},
                              Field{"max_position_embeddings", &M::max_seq, 4096},
                              Field{"rms_norm_eps", &M::norm_eps, 1e-6},
                              Field{"tie_word_embeddings", &M::tie_embeddings, 0},
                              Field{"rope_interleave", &M::rope_interleave, 1},
                              Field{"q_lora_rank", &M::q_lora_rank, 1536, 1, true},
                              Field{"kv_lora_rank", &M::kv_lora_rank, 512},
                              Field{"qk_nope_head_dim", &M::qk_nope_head_dim, 128},
                              Field{"qk_rope_head_dim", &M::qk_rope_head_dim, 64},
                              Field{"v_head_dim", &M::v_head_dim, 128},
                              Field{"num_experts_per_tok", &M::top_k, 8},
                              Field{"n_routed_experts", &M::experts, 256},
                              Field{"intermediate_size", &M::d_ff, 18432},
                              Field{"moe_intermediate_size", &M::expert_d_ff, 2048},
                              Field{"routed_scaling_factor", &R::scale, 2.5},
                              Field{"norm_topk_prob", &R::normalize, 1}};

constexpr std::array kAliases2{Alias{"n_routed_experts", "num_experts"}};
constexpr std::array kAliases3{Alias{"n_routed_experts", "num_local_experts"},
                               Alias{"num_nextn_predict_layers", "num_mtp_layers"}};

void read_both(Reading& r, std::int64_t shared_experts, std::int64_t dense_layers) {
  HfFields& f = r.fields;
  config::Model& m = r.config.model;
  m.kv_heads = m.heads;
  read_rope(r, 10000.0);
  check_experts(r, "n_routed_experts");
  m.shared_experts = f.count("n_shared_experts", shared_experts);
  m.dense_layers = f.count("first_k_dense_replace", dense_layers, 0);
  f.must_be("num_key_value_heads", m.heads, {"num_attention_heads"});
  f.must_be("qk_head_dim", config::key_width(m), {"qk_nope_head_dim", "qk_rope_head_dim"});
  f.must_be("attention_bias", false);
  f.must_be("mlp_bias", false);
  f.must_be("moe_layer_freq", 1);
  // head_dim is qk_rope_head_dim or left over; the others split work or shape the loss.
  f.ignore({"head_dim", "ep_size", "pretraining_tp"});
  note_loss(r, "aux_loss_alpha");
  note_loss(r, "router_aux_loss_coef");
  r.config.router.aux_scope =
      f.flag("seq_aux", false) ? config::AuxScope::kSequence : config::AuxScope::kMicroBatch;
}

void write_both(const config::Model& model, const config::Router& router, Json& json) {
  json["num_key_value_heads"] = model.heads;
  json["attention_bias"] = false;
  json["n_shared_experts"] = model.shared_d_ff / model.expert_d_ff;
  json["first_k_dense_replace"] = std::ssize(model.dense_at);
  json["moe_layer_freq"] = 1;
  json["n_group"] = router.groups;
  json["topk_group"] = router.top_groups;
  json["norm_topk_prob"] = router.normalize;
  json["pretraining_tp"] = 1;
  json["ep_size"] = 1;
}

void read2(Reading& r) {
  read_both(r, 2, 0);
  HfFields& f = r.fields;
  if (!f.has("num_experts_per_tok")) {
    f.problem("num_experts_per_tok", "is missing");
  }
  r.config.model.rope_interleave = true;
  r.config.router.normalize = false;
  r.config.router.group_score = config::GroupScore::kMax;
  f.must_be("scoring_func", "softmax");
  f.must_be("norm_topk_prob", false);  // the two reference codes differ where it is true
  const std::string method = f.text("topk_method", "greedy");
  const auto groups = f.optional_count("n_group", std::nullopt);
  const auto top = f.optional_count("topk_group", std::nullopt);
  if (method == "group_limited_greedy") {
    if (!groups || !top) {
      f.conflict("topk_method", {"n_group", "topk_group"}, "needs n_group and topk_group");
    }
    read_groups(r, groups.value_or(1), top.value_or(1));
  } else if (method != "greedy") {
    f.problem("topk_method",
              "is not supported for deepseek_v2: greedy and group_limited_greedy are");
  }
}

void write2(const config::Model& model, const config::Router& router, Json& json) {
  write_both(model, router, json);
  json["scoring_func"] = "softmax";
  json["topk_method"] = router.groups > 1 ? "group_limited_greedy" : "greedy";
}

void read3(Reading& r) {
  read_both(r, 1, 3);
  HfFields& f = r.fields;
  r.config.router.score = config::Score::kSigmoid;
  r.config.router.balance = config::Balance::kBias;
  read_groups(r, f.count("n_group", 8), f.count("topk_group", 4));
  if (r.config.model.experts < 2 * r.config.router.groups) {
    f.conflict("n_group", {"n_routed_experts"},
               "leaves groups of one expert: a group's score is that of two");
  }
  f.must_be("scoring_func", "sigmoid");
  f.must_be("topk_method", "noaux_tc");
  r.config.has_extra_layers = f.count("num_nextn_predict_layers", 1, 0) > 0;
}

void write3(const config::Model& model, const config::Router& router, Json& json) {
  write_both(model, router, json);
  json["scoring_func"] = "sigmoid";
  json["topk_method"] = "noaux_tc";
  json["num_nextn_predict_layers"] = 0;
}

}  // namespace

const Family& deepseek_v2() {
  static const Family family{"deepseek_v2", "DeepseekV2ForCausalLM", kFields2, kAliases2, read2,
                             write2};
  return family;
}

const Family& deepseek_v3() {
  static const Family family{"deepseek_v3", "DeepseekV3ForCausalLM", kFields3, kAliases3, read3,
                             write3};
  return family;
}

}  // namespace moesaic::hf
