#include "hf/reading.h"

#include <fmt/format.h>

#include "base/json.h"
#include "base/text.h"

namespace moesaic::hf {

namespace {

constexpr std::int64_t kMostLayers = 10'000, kMostExperts = 65'536;
constexpr std::int64_t kMostInAll = 100'000;  // layers x experts

}  // namespace

void Reading::set(const std::string& key, double value) {
  config.keys[key] = fmt::format("{}", value);
}

void set_absent(Reading& r) {
  for (const char* key :
       {"model.dense_layers", "model.shared_experts", "model.shared_d_ff", "model.shared_gate",
        "model.qkv_bias", "model.output_bias", "model.clip_qkv", "model.sinks",
        "model.sliding_window", "model.rope_interleave", "model.q_lora_rank", "model.kv_lora_rank",
        "model.qk_nope_head_dim", "model.qk_rope_head_dim", "model.v_head_dim",
        "model.swiglu_limit", "model.expert_bias", "router.aux_loss", "router.gate_bias"}) {
    r.set(key, "0");
  }
  for (const char* key :
       {"model.moe_every", "router.scale", "router.groups", "router.top_groups"}) {
    r.set(key, "1");
  }
  r.set("model.dense_at", "");
  r.set("model.window_layers", "");
  r.set("model.qk_norm", "none");
  r.set("router.score", "softmax");
  r.set("router.balance", "none");
  r.set("router.aux_scope", "micro_batch");
  r.set("router.group_score", "top2");
}

void read_common(Reading& r, const Shape& shape) {
  HfFields& f = r.fields;
  r.set("model.d_model", f.count("hidden_size", shape.hidden));
  r.set("model.layers", f.count("num_hidden_layers", shape.layers, 1, kMostLayers));
  r.set("model.heads", f.count("num_attention_heads", shape.heads));
  r.set("model.vocab_size", f.count("vocab_size", shape.vocabulary));
  r.set("model.max_seq", f.count("max_position_embeddings", shape.max_positions));
  r.set("model.norm_eps", f.number("rms_norm_eps", shape.norm_eps));
  r.set("model.tie_embeddings", f.flag("tie_word_embeddings", false));
  r.set("model.top_k", f.count("num_experts_per_tok", shape.top_k));
  f.must_be("hidden_act", "silu");
  f.must_be("attention_dropout", 0.0);
  f.must_be("hidden_dropout", 0.0);
  f.must_be("is_encoder_decoder", false);
  f.must_be("add_cross_attention", false);
  f.must_be("output_router_logits", false);  // else transformers adds a loss of its own
  // How texts are cut, how weights began and what calls return: not what is computed.
  f.ignore({"model_type",
            "architectures",
            "transformers_version",
            "auto_map",
            "_name_or_path",
            "dtype",
            "torch_dtype",
            "use_cache",
            "initializer_range",
            "pad_token_id",
            "bos_token_id",
            "eos_token_id",
            "sep_token_id",
            "return_dict",
            "output_attentions",
            "output_hidden_states",
            "id2label",
            "label2id",
            "problem_type",
            "chunk_size_feed_forward",
            "tie_encoder_decoder",
            "_attn_implementation_autoset"});
}

void note_loss(Reading& r, const std::string& name) {
  const double value = r.fields.number(name, 0.0);
  if (value > 0.0) {
    r.config.notes.push_back(
        fmt::format("{} = {} is not used: router.aux_loss sets how much balance counts in training",
                    name, value));
  }
}

void read_heads(Reading& r, std::optional<std::int64_t> kv_heads,
                std::optional<std::int64_t> head_dim) {
  const std::int64_t heads = r.get("model.heads"), hidden = r.get("model.d_model");
  const std::int64_t kv = r.fields.optional_count("num_key_value_heads", kv_heads).value_or(heads);
  if (heads % kv != 0) {
    r.fields.conflict("num_key_value_heads", {"num_attention_heads"},
                      fmt::format("does not divide {} heads", heads));
  }
  const auto dim = r.fields.optional_count("head_dim", head_dim);
  if (!dim && hidden % heads != 0) {
    r.fields.conflict("head_dim", {"num_attention_heads", "hidden_size"},
                      fmt::format("is needed: {} heads do not divide {}", heads, hidden));
  }
  r.set("model.kv_heads", kv);
  r.set("model.head_dim", dim.value_or(hidden / heads));
}

void read_experts(Reading& r, const char* count, std::int64_t experts) {
  r.set("model.experts", r.fields.count(count, experts, 1, kMostExperts));
  if (r.get("model.experts") * r.get("model.layers") > kMostInAll) {
    r.fields.conflict(count, {"num_hidden_layers"},
                      fmt::format("is too many for {} layers", r.get("model.layers")));
  }
  if (r.get("model.top_k") > r.get("model.experts")) {
    r.fields.conflict("num_experts_per_tok", {count},
                      fmt::format("is more than there are experts ({})", r.get("model.experts")));
  }
}

void read_windows(Reading& r, std::optional<std::int64_t> width,
                  const std::vector<std::string>& types) {
  const std::int64_t layers = r.get("model.layers");
  std::vector<std::int64_t> with;
  for (std::size_t i = 0; i < types.size(); ++i) {
    if (types[i] == "sliding_attention") {
      with.push_back(static_cast<std::int64_t>(i));
    } else if (types[i] != "full_attention") {
      r.fields.problem("layer_types", "holds what is neither sliding_attention nor full_attention");
      return;
    }
  }
  if (static_cast<std::int64_t>(types.size()) != layers) {
    r.fields.conflict("layer_types", {"num_hidden_layers"},
                      fmt::format("has {} entries for {} layers", types.size(), layers));
  } else if (!with.empty() && !width) {
    r.fields.conflict("layer_types", {"sliding_window"},
                      "has windows, but there is no sliding_window");
  } else if (!with.empty()) {
    r.set("model.sliding_window", *width);
    const bool all = static_cast<std::int64_t>(with.size()) == layers;
    r.config.keys["model.window_layers"] = all ? "" : join(with, ",");
  }
}

void read_groups(Reading& r, std::int64_t groups, std::int64_t top) {
  const std::int64_t experts = r.get("model.experts");
  if (experts % groups != 0) {
    r.fields.conflict("n_group", {"n_routed_experts"},
                      fmt::format("does not divide {} experts", experts));
  } else if (top > groups || r.get("model.top_k") > experts / groups * top) {
    r.fields.conflict("topk_group", {"n_routed_experts", "n_group", "num_experts_per_tok"},
                      fmt::format("does not suit {} groups of {} experts and {} for each token",
                                  groups, experts / groups, r.get("model.top_k")));
  }
  r.set("router.groups", groups);
  r.set("router.top_groups", top);
}

void read_quantization(Reading& r) {
  const Json found = r.fields.object("quantization_config");
  if (found.is_null()) {
    return;
  }
  const std::string method = found.contains("quant_method") ? found["quant_method"].dump() : "none";
  if (method != "\"fp8\"") {
    r.fields.problem(
        "quantization_config",
        fmt::format("has quant_method {}, which is not supported: only fp8 is", method));
    return;
  }
  HfFields part(found, "fp8", "quantization_config.");
  part.must_be("fmt", "e4m3");
  part.must_be("activation_scheme", "dynamic");
  part.must_be("weight_block_size", Json::array({128, 128}));
  if (!part.has("weight_block_size")) {
    part.problem("weight_block_size", "is missing");
  }
  part.ignore({"quant_method", "modules_to_not_convert"});  // the tensors' formats say which
  for (const std::string& problem : part.problems()) {
    r.fields.add(problem);
  }
  r.config.has_fp8 = true;
}

}  // namespace moesaic::hf
