#include <fmt/format.h>

#include "base/json.h"
#include "base/text.h"
#include "hf/reading.h"
#include "hf/rope.h"

namespace moesaic::hf {
namespace {

void read_mixtral(Reading& r) {
  HfFields& f = r.fields;
  read_common(r, {4096, 32, 32, 32000, 131072, 2, 1e-5});
  read_heads(r, 8, std::nullopt);
  read_rope(f, 1e6, nullptr, r.config.keys);
  f.same("num_local_experts", "num_experts");
  read_experts(r, "num_local_experts", 8);
  r.set("model.expert_d_ff", f.count("intermediate_size", 14336));
  r.set("model.d_ff", r.get("model.expert_d_ff"));
  r.set("model.sliding_window", f.optional_count("sliding_window", std::nullopt).value_or(0));
  r.set("router.normalize", true);
  f.must_be("router_jitter_noise", 0.0);
  note_loss(r, "router_aux_loss_coef");
}

/// What the families of Qwen share: which layers have experts, and their widths.
void read_qwen(Reading& r, std::int64_t expert_width) {
  HfFields& f = r.fields;
  r.set("model.moe_every", f.count("decoder_sparse_step", 1));
  const auto dense = f.counts("mlp_only_layers", r.get("model.layers"));
  r.config.keys["model.dense_at"] = join(dense, ",");
  r.set("model.expert_d_ff", f.count("moe_intermediate_size", expert_width));
  r.set("router.normalize", f.flag("norm_topk_prob", false));
  note_loss(r, "router_aux_loss_coef");
}

void read_qwen2_moe(Reading& r) {
  HfFields& f = r.fields;
  read_common(r, {2048, 24, 16, 151936, 32768, 4, 1e-6});
  read_heads(r, 16, std::nullopt);
  read_rope(f, 10000.0, nullptr, r.config.keys);
  read_experts(r, "num_experts", 60);
  r.set("model.d_ff", f.count("intermediate_size", 5632));
  read_qwen(r, 1408);
  r.set("model.qkv_bias", f.flag("qkv_bias", true));
  r.set("model.shared_experts", "1");
  r.set("model.shared_d_ff", f.count("shared_expert_intermediate_size", 5632));
  r.set("model.shared_gate", true);

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

void read_qwen3_moe(Reading& r) {
  HfFields& f = r.fields;
  read_common(r, {2048, 24, 32, 151936, 32768, 8, 1e-6});
  read_heads(r, 4, std::nullopt);
  read_rope(f, 10000.0, nullptr, r.config.keys);
  f.same("num_experts", "num_local_experts");
  read_experts(r, "num_experts", 128);
  r.set("model.d_ff", f.count("intermediate_size", 6144));
  read_qwen(r, 768);
  r.set("model.qk_norm", "head");
  r.set("model.qkv_bias", f.flag("attention_bias", false));
  r.set("model.output_bias", f.flag("attention_bias", false));

  if (!f.flag("use_sliding_window", false)) {
    f.ignore({"sliding_window", "max_window_layers"});
  } else if (f.count("max_window_layers", 0, 0) != 0) {
    f.problem("use_sliding_window",
              "needs max_window_layers = 0: versions of transformers differ in which layers have a "
              "window");
  } else {
    r.set("model.sliding_window", f.optional_count("sliding_window", 4096).value_or(0));
  }
}

void read_olmoe(Reading& r) {
  HfFields& f = r.fields;
  read_common(r, {2048, 16, 16, 50304, 4096, 8, 1e-5});
  read_heads(r, std::nullopt, std::nullopt);
  read_rope(f, 10000.0, nullptr, r.config.keys);
  f.same("num_experts", "num_local_experts");
  read_experts(r, "num_experts", 64);
  r.set("model.expert_d_ff", f.count("intermediate_size", 2048));
  r.set("model.d_ff", r.get("model.expert_d_ff"));
  r.set("model.qk_norm", "projection");
  r.set("model.qkv_bias", f.flag("attention_bias", false));
  r.set("model.output_bias", f.flag("attention_bias", false));
  r.set("model.clip_qkv", f.optional_number("clip_qkv").value_or(0.0));
  r.set("router.normalize", f.flag("norm_topk_prob", false));
  note_loss(r, "router_aux_loss_coef");
}

/// Latent attention, dense first layers, and experts in groups.
void read_deepseek(Reading& r) {
  HfFields& f = r.fields;
  read_rope(f, 10000.0, nullptr, r.config.keys);
  const auto rank = f.optional_count("q_lora_rank", 1536);
  r.set("model.q_lora_rank", rank.value_or(0));
  r.set("model.kv_lora_rank", f.count("kv_lora_rank", 512));
  r.set("model.qk_nope_head_dim", f.count("qk_nope_head_dim", 128));
  r.set("model.qk_rope_head_dim", f.count("qk_rope_head_dim", 64));
  r.set("model.v_head_dim", f.count("v_head_dim", 128));
  r.set("model.kv_heads", r.get("model.heads"));
  r.set("model.head_dim", "0");
  const std::int64_t width = r.get("model.qk_nope_head_dim") + r.get("model.qk_rope_head_dim");
  f.must_be("num_key_value_heads", r.get("model.heads"), {"num_attention_heads"});
  f.must_be("qk_head_dim", width, {"qk_nope_head_dim", "qk_rope_head_dim"});
  f.must_be("attention_bias", false);
  f.must_be("mlp_bias", false);
  f.must_be("moe_layer_freq", 1);
  // head_dim is qk_rope_head_dim or left over; the others split work or shape the loss.
  f.ignore({"head_dim", "ep_size", "pretraining_tp"});
  note_loss(r, "aux_loss_alpha");
  note_loss(r, "router_aux_loss_coef");
  r.set("router.aux_scope", f.flag("seq_aux", false) ? "sequence" : "micro_batch");
}

void read_deepseek_v2(Reading& r) {
  HfFields& f = r.fields;
  read_common(r, {4096, 32, 32, 102400, 2048, 0, 1e-6});
  read_deepseek(r);
  f.same("n_routed_experts", "num_experts");
  read_experts(r, "n_routed_experts", 64);
  if (!f.has("num_experts_per_tok")) {
    f.problem("num_experts_per_tok", "is missing");
  }
  r.set("model.d_ff", f.count("intermediate_size", 11008));
  r.set("model.expert_d_ff", f.count("moe_intermediate_size", 1407));
  r.set("model.shared_experts", f.count("n_shared_experts", 2, 1));
  r.set("model.dense_layers", f.count("first_k_dense_replace", 0, 0));
  r.set("model.rope_interleave", true);
  r.set("router.scale", f.number("routed_scaling_factor", 1.0));
  r.set("router.normalize", false);
  r.set("router.group_score", "max");
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

void read_deepseek_v3(Reading& r) {
  HfFields& f = r.fields;
  read_common(r, {7168, 61, 128, 129280, 4096, 8, 1e-6});
  read_deepseek(r);
  f.same("n_routed_experts", "num_local_experts");
  read_experts(r, "n_routed_experts", 256);
  r.set("model.d_ff", f.count("intermediate_size", 18432));
  r.set("model.expert_d_ff", f.count("moe_intermediate_size", 2048));
  r.set("model.shared_experts", f.count("n_shared_experts", 1, 1));
  r.set("model.dense_layers", f.count("first_k_dense_replace", 3, 0));
  r.set("model.rope_interleave", f.flag("rope_interleave", true));
  r.set("router.score", "sigmoid");
  r.set("router.balance", "bias");
  r.set("router.scale", f.number("routed_scaling_factor", 2.5));
  r.set("router.normalize", f.flag("norm_topk_prob", true));
  read_groups(r, f.count("n_group", 8), f.count("topk_group", 4));
  if (r.get("model.experts") < 2 * r.get("router.groups")) {
    f.conflict("n_group", {"n_routed_experts"},
               "leaves groups of one expert: a group's score is that of two");
  }
  f.must_be("scoring_func", "sigmoid");
  f.must_be("topk_method", "noaux_tc");
  f.same("num_nextn_predict_layers", "num_mtp_layers");
  r.config.has_extra_layers = f.count("num_nextn_predict_layers", 1, 0) > 0;
}

void read_gpt_oss(Reading& r) {
  HfFields& f = r.fields;
  f.same("num_experts_per_tok", "experts_per_token");
  read_common(r, {2880, 36, 64, 201088, 131072, 4, 1e-5});
  read_heads(r, 8, 64);
  const Json yarn{{"rope_type", "yarn"},
                  {"factor", 32.0},
                  {"truncate", false},
                  {"original_max_position_embeddings", 4096}};
  read_rope(f, 150000.0, yarn, r.config.keys);
  f.same("num_local_experts", "num_experts");
  read_experts(r, "num_local_experts", 128);
  r.set("model.expert_d_ff", f.count("intermediate_size", 2880));
  r.set("model.d_ff", r.get("model.expert_d_ff"));
  r.set("model.qkv_bias", f.flag("attention_bias", true));
  r.set("model.output_bias", f.flag("attention_bias", true));
  r.set("model.sinks", true);
  r.set("model.swiglu_limit", f.number("swiglu_limit", 7.0));
  if (number_of(r.config.keys, "model.swiglu_limit") == 0.0) {
    f.problem("swiglu_limit", "must be above 0");
  }
  r.set("model.expert_bias", true);
  r.set("router.gate_bias", true);
  r.set("router.normalize", true);
  f.must_be("swiglu_alpha", 1.702);
  f.ignore({"initial_context_length"});  // rope_scaling has it
  note_loss(r, "router_aux_loss_coef");
  auto types = f.texts("layer_types");
  for (std::int64_t i = 0; !f.has("layer_types") && i < r.get("model.layers"); ++i) {
    types.emplace_back(i % 2 == 0 ? "sliding_attention" : "full_attention");
  }
  read_windows(r, f.optional_count("sliding_window", 128), types);
}

using Read = void (*)(Reading&);
constexpr std::array<Read, kHfFamilyNames.size()> kReaders{
    read_mixtral,     read_qwen2_moe,   read_qwen3_moe, read_olmoe,
    read_deepseek_v2, read_deepseek_v3, read_gpt_oss};

}  // namespace

void read_family(Reading& r) { kReaders[static_cast<std::size_t>(r.config.family)](r); }

}  // namespace moesaic::hf
