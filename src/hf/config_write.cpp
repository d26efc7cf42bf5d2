#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "hf/config.h"
#include "hf/keys.h"
#include "hf/rope.h"

namespace moesaic::hf {
namespace {

constexpr std::array<const char*, kHfFamilyNames.size()> kArchitectures{
    "MixtralForCausalLM",    "Qwen2MoeForCausalLM",   "Qwen3MoeForCausalLM", "OlmoeForCausalLM",
    "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "GptOssForCausalLM"};

Json common(HfFamily family, const HfKeys& keys, StoredType type) {
  const auto number = static_cast<std::size_t>(family);
  Json c{{"architectures", Json::array({kArchitectures[number]})},
         {"model_type", kHfFamilyNames[number]},
         {"attention_dropout", 0.0},
         {"bos_token_id", nullptr},
         {"eos_token_id", nullptr},
         {"hidden_act", "silu"},
         {"hidden_size", integer_of(keys, "model.d_model")},
         {"initializer_range", 0.02},
         {"max_position_embeddings", integer_of(keys, "model.max_seq")},
         {"num_attention_heads", integer_of(keys, "model.heads")},
         {"num_experts_per_tok", integer_of(keys, "model.top_k")},
         {"num_hidden_layers", integer_of(keys, "model.layers")},
         {"output_router_logits", false},
         {"rms_norm_eps", number_of(keys, "model.norm_eps")},
         {"tie_word_embeddings", integer_of(keys, "model.tie_embeddings") != 0},
         {"use_cache", true},
         {"vocab_size", integer_of(keys, "model.vocab_size")}};
  c["torch_dtype"] = type == StoredType::kBF16  ? "bfloat16"
                     : type == StoredType::kF16 ? "float16"
                                                : "float32";
  write_rope(keys, c);
  return c;
}

void write_heads(const HfKeys& keys, Json& c) {
  c["num_key_value_heads"] = integer_of(keys, "model.kv_heads");
  c["head_dim"] = integer_of(keys, "model.head_dim");
}

bool flag_of(const HfKeys& keys, const char* key) { return integer_of(keys, key) != 0; }

/// "sliding_attention" or "full_attention" for each layer.
Json layer_types(const HfKeys& keys) {
  const std::int64_t layers = integer_of(keys, "model.layers");
  const bool windows = integer_of(keys, "model.sliding_window") > 0;
  const auto listed = integers_of(keys, "model.window_layers");
  Json types = Json::array();
  for (std::int64_t i = 0; i < layers; ++i) {
    const bool has = listed.empty() || std::find(listed.begin(), listed.end(), i) != listed.end();
    types.push_back(windows && has ? "sliding_attention" : "full_attention");
  }
  return types;
}

void write_window(const HfKeys& keys, Json& c) {
  const std::int64_t width = integer_of(keys, "model.sliding_window");
  c["sliding_window"] = width > 0 ? Json(width) : Json(nullptr);
}

void write_mixtral(const HfKeys& keys, Json& c) {
  write_heads(keys, c);
  write_window(keys, c);
  c["num_local_experts"] = integer_of(keys, "model.experts");
  c["intermediate_size"] = integer_of(keys, "model.expert_d_ff");
  c["router_aux_loss_coef"] = 0.0;
}

void write_qwen(const HfKeys& keys, Json& c) {
  write_heads(keys, c);
  write_window(keys, c);
  c["use_sliding_window"] = integer_of(keys, "model.sliding_window") > 0;
  c["num_experts"] = integer_of(keys, "model.experts");
  c["intermediate_size"] = integer_of(keys, "model.d_ff");
  c["moe_intermediate_size"] = integer_of(keys, "model.expert_d_ff");
  c["decoder_sparse_step"] = 1;
  c["mlp_only_layers"] = dense_layers_of(keys);
  c["norm_topk_prob"] = flag_of(keys, "router.normalize");
  c["router_aux_loss_coef"] = 0.0;
}

void write_qwen2_moe(const HfKeys& keys, Json& c) {
  write_qwen(keys, c);
  c["qkv_bias"] = flag_of(keys, "model.qkv_bias");
  c["shared_expert_intermediate_size"] = shared_width_of(keys);
  c["layer_types"] = layer_types(keys);
}

void write_qwen3_moe(const HfKeys& keys, Json& c) {
  write_qwen(keys, c);
  c["attention_bias"] = flag_of(keys, "model.qkv_bias");
  c["max_window_layers"] = 0;
}

void write_olmoe(const HfKeys& keys, Json& c) {
  write_heads(keys, c);
  const double clip = number_of(keys, "model.clip_qkv");
  c["clip_qkv"] = clip > 0.0 ? Json(clip) : Json(nullptr);
  c["attention_bias"] = flag_of(keys, "model.qkv_bias");
  c["num_experts"] = integer_of(keys, "model.experts");
  c["intermediate_size"] = integer_of(keys, "model.expert_d_ff");
  c["norm_topk_prob"] = flag_of(keys, "router.normalize");
  c["router_aux_loss_coef"] = 0.0;
}

void write_deepseek(const HfKeys& keys, Json& c) {
  const std::int64_t rank = integer_of(keys, "model.q_lora_rank");
  const std::int64_t expert = integer_of(keys, "model.expert_d_ff");
  c["q_lora_rank"] = rank > 0 ? Json(rank) : Json(nullptr);
  for (const char* name : {"kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"}) {
    c[name] = integer_of(keys, std::string("model.") + name);
  }
  c["num_key_value_heads"] = integer_of(keys, "model.heads");
  c["attention_bias"] = false;
  c["n_routed_experts"] = integer_of(keys, "model.experts");
  c["n_shared_experts"] = shared_width_of(keys) / expert;
  c["intermediate_size"] = integer_of(keys, "model.d_ff");
  c["moe_intermediate_size"] = expert;
  c["first_k_dense_replace"] = static_cast<std::int64_t>(dense_layers_of(keys).size());
  c["moe_layer_freq"] = 1;
  c["routed_scaling_factor"] = number_of(keys, "router.scale");
  c["n_group"] = integer_of(keys, "router.groups");
  c["topk_group"] = integer_of(keys, "router.top_groups");
  c["norm_topk_prob"] = flag_of(keys, "router.normalize");
  c["pretraining_tp"] = 1;
  c["ep_size"] = 1;
}

void write_deepseek_v2(const HfKeys& keys, Json& c) {
  write_deepseek(keys, c);
  c["scoring_func"] = "softmax";
  c["topk_method"] = integer_of(keys, "router.groups") > 1 ? "group_limited_greedy" : "greedy";
}

void write_deepseek_v3(const HfKeys& keys, Json& c) {
  write_deepseek(keys, c);
  c["scoring_func"] = "sigmoid";
  c["topk_method"] = "noaux_tc";
  c["rope_interleave"] = flag_of(keys, "model.rope_interleave");
  c["num_nextn_predict_layers"] = 0;
}

void write_gpt_oss(const HfKeys& keys, Json& c) {
  write_heads(keys, c);
  write_window(keys, c);
  c["layer_types"] = layer_types(keys);
  c["attention_bias"] = flag_of(keys, "model.qkv_bias");
  c["num_local_experts"] = integer_of(keys, "model.experts");
  c["intermediate_size"] = integer_of(keys, "model.expert_d_ff");
  c["swiglu_limit"] = number_of(keys, "model.swiglu_limit");
  c["router_aux_loss_coef"] = 0.0;
}

using Write = void (*)(const HfKeys&, Json&);
constexpr std::array<Write, kHfFamilyNames.size()> kWriters{
    write_mixtral,     write_qwen2_moe,   write_qwen3_moe, write_olmoe,
    write_deepseek_v2, write_deepseek_v3, write_gpt_oss};

/// How a family's config.json expresses a model.
struct Fit {
  std::vector<std::string> lost;  // keys that it cannot say
  std::string problem;            // why it would be refused
};
Fit fit_of(HfFamily family, const HfKeys& keys) {
  HfKeys read;
  try {
    const Json config = hf_config_of(family, keys, StoredType::kF32);
    read = canonical(parse_hf_config(config.dump(), "config.json").keys);
  } catch (const Error& error) {
    if (error.code() == Exit::kInternal) {
      throw;
    }
    return {{}, error.what()};
  }
  Fit fit;
  for (const auto& [key, value] : canonical(keys)) {
    const auto found = read.find(key);
    if (found == read.end() || found->second != value) {
      fit.lost.push_back(fmt::format("{} = {}", key, value.empty() ? "(none)" : value));
    }
  }
  return fit;
}

}  // namespace

std::string_view name_of(HfFamily family) {
  return kHfFamilyNames[static_cast<std::size_t>(family)];
}

Json hf_config_of(HfFamily family, const HfKeys& keys, StoredType type) {
  HfKeys resolved = canonical(keys);
  Json config = common(family, resolved, type);
  kWriters[static_cast<std::size_t>(family)](resolved, config);
  return config;
}

HfFamily family_for(const HfKeys& keys) {
  if (integer_of(keys, "model.experts") == 0) {
    throw Error(Exit::kUsage,
                "no Hugging Face family has this dense model (model.experts = 0): only models with "
                "experts can be written as a folder");
  }
  std::string missing, refused;
  for (std::size_t i = 0; i < kHfFamilyNames.size(); ++i) {
    const Fit fit = fit_of(static_cast<HfFamily>(i), keys);
    if (fit.lost.empty() && fit.problem.empty()) {
      return static_cast<HfFamily>(i);
    }
    if (fit.problem.empty()) {
      missing += fmt::format("\n  {} has not {}", kHfFamilyNames[i], join(fit.lost, ", "));
    } else {
      refused += fmt::format("\n  {}: {}", kHfFamilyNames[i], fit.problem);
    }
  }
  throw Error(Exit::kUsage,
              "no Hugging Face family has this model:" + (missing.empty() ? refused : missing));
}

}  // namespace moesaic::hf
