// config.json of the public families: every field is honoured or refused by name, and what is
// written says what was read.
#include <gtest/gtest.h>

#include <random>

#include "config/compare.h"
#include "hf/family.h"
#include "unit/hf/folders.h"

namespace moesaic::hf {
namespace {

std::filesystem::path config_file(const std::string& folder) {
  return folder_of(folder) / "config.json";
}

Json config_of(const std::string& folder) {
  return Json::parse(testing::read_file(config_file(folder)));
}

HfConfig read_config(const std::string& folder) {
  return parse_hf_config(config_of(folder).dump(), "config.json");
}

/// Keys of sections model and router, as a config file has them.
using Keys = std::map<std::string, std::string>;

Keys keys_of(const HfConfig& read) {
  config::Config config;
  config.model = read.model;
  config.router = read.router;
  Keys keys;
  for (const auto& [key, value] : config::flatten(config)) {
    if (key.starts_with("model.") || key.starts_with("router.")) {
      keys[key] = value;
    }
  }
  return keys;
}

Keys keys_of(const Json& config) { return keys_of(parse_hf_config(config.dump(), "config.json")); }

Keys canonical_keys(HfConfig config) {
  canonicalise(config.model, config.router);
  return keys_of(config);
}

const Family& family_of(const HfConfig& config) { return family_for(config.model, config.router); }

/// Whether a config with this field is refused with a line that begins so.
void expect_refused(Json config, const std::string& field, const Json& value,
                    const std::string& line) {
  config[field] = value;
  const std::string message = message_of([&] { keys_of(config); }, Exit::kBadData);
  EXPECT_NE(message.find("config.json: "), std::string::npos) << message;
  EXPECT_NE(message.find(line), std::string::npos) << line << "\n" << message;
}

void expect_keys(const Keys& keys, const Keys& expected) {
  for (const auto& [key, value] : expected) {
    ASSERT_TRUE(keys.contains(key)) << key;
    EXPECT_EQ(keys.at(key), value) << key;
  }
}

// What each family's fields mean in our keys.
TEST(HfConfig, Keys) {
  expect_keys(
      keys_of(read_config("mixtral")),
      {{"model.layers", "2"},          {"model.d_model", "24"},         {"model.heads", "4"},
       {"model.kv_heads", "2"},        {"model.head_dim", "6"},         {"model.vocab_size", "67"},
       {"model.max_seq", "256"},       {"model.rope_theta", "1000000"}, {"model.norm_eps", "1e-05"},
       {"model.tie_embeddings", "0"},  {"model.experts", "6"},          {"model.top_k", "2"},
       {"model.expert_d_ff", "24"},    {"model.sliding_window", "7"},   {"model.window_layers", ""},
       {"router.normalize", "1"},      {"router.score", "softmax"},     {"router.balance", "none"},
       {"model.qk_norm", "none"},      {"model.shared_experts", "0"},   {"model.kv_lora_rank", "0"},
       {"model.rope_scaling", "none"}, {"model.swiglu_limit", "0"},     {"model.moe_every", "1"}});
  expect_keys(keys_of(read_config("qwen2_moe")), {{"model.kv_heads", "1"},
                                                  {"model.head_dim", "6"},
                                                  {"model.d_ff", "17"},
                                                  {"model.expert_d_ff", "8"},
                                                  {"model.moe_every", "2"},
                                                  {"model.dense_at", ""},
                                                  {"model.shared_experts", "1"},
                                                  {"model.shared_d_ff", "13"},
                                                  {"model.shared_gate", "1"},
                                                  {"model.qkv_bias", "1"},
                                                  {"model.output_bias", "0"},
                                                  {"model.sliding_window", "0"},
                                                  {"model.tie_embeddings", "1"},
                                                  {"model.rope_theta", "10000"},
                                                  {"router.normalize", "0"}});
  expect_keys(keys_of(read_config("qwen3_moe")), {{"model.head_dim", "10"},
                                                  {"model.qk_norm", "head"},
                                                  {"model.dense_at", "0"},
                                                  {"model.moe_every", "1"},
                                                  {"model.rope_scaling", "linear"},
                                                  {"model.rope_factor", "2"},
                                                  {"model.rope_theta", "1000"},
                                                  {"router.normalize", "1"}});
  expect_keys(keys_of(read_config("olmoe")), {{"model.qk_norm", "projection"},
                                              {"model.clip_qkv", "1.1"},
                                              {"model.expert_d_ff", "13"},
                                              {"router.normalize", "0"}});
  expect_keys(keys_of(read_config("deepseek_v2")), {{"model.q_lora_rank", "0"},
                                                    {"model.kv_lora_rank", "14"},
                                                    {"model.qk_nope_head_dim", "12"},
                                                    {"model.qk_rope_head_dim", "8"},
                                                    {"model.v_head_dim", "10"},
                                                    {"model.rope_interleave", "1"},
                                                    {"model.dense_layers", "1"},
                                                    {"model.shared_experts", "2"},
                                                    {"model.shared_d_ff", "0"},
                                                    {"router.scale", "1.5"},
                                                    {"router.groups", "1"},
                                                    {"router.normalize", "0"}});
  expect_keys(keys_of(read_config("deepseek_v2_yarn")), {{"model.rope_scaling", "yarn"},
                                                         {"model.rope_factor", "4"},
                                                         {"model.rope_original_max_seq", "64"},
                                                         {"model.rope_beta_fast", "8"},
                                                         {"model.rope_beta_slow", "1"},
                                                         {"model.rope_attention_factor", "0"},
                                                         {"model.rope_mscale", "0.707"},
                                                         {"model.rope_mscale_all_dim", "1.2"},
                                                         {"model.rope_truncate", "1"},
                                                         {"router.groups", "4"},
                                                         {"router.top_groups", "2"},
                                                         {"router.group_score", "max"}});
  expect_keys(keys_of(read_config("deepseek_v3")), {{"router.score", "sigmoid"},
                                                    {"router.balance", "bias"},
                                                    {"router.group_score", "top2"},
                                                    {"router.normalize", "1"},
                                                    {"router.scale", "2.5"},
                                                    {"router.aux_loss", "0"},
                                                    {"router.aux_scope", "sequence"},
                                                    {"model.q_lora_rank", "11"}});
  expect_keys(keys_of(read_config("gpt_oss")), {{"model.sinks", "1"},
                                                {"model.qkv_bias", "1"},
                                                {"model.output_bias", "1"},
                                                {"model.sliding_window", "9"},
                                                {"model.window_layers", "0, 2"},
                                                {"model.swiglu_limit", "1.5"},
                                                {"model.expert_bias", "1"},
                                                {"model.rope_truncate", "0"},
                                                {"router.gate_bias", "1"},
                                                {"router.normalize", "1"}});
}

// What only the folder's tensors show is said beside the keys.
TEST(HfConfig, BesideTheKeys) {
  const HfConfig v3 = read_config("deepseek_v3");
  EXPECT_FALSE(v3.has_fp8 || v3.has_extra_layers);
  const HfConfig fp8 = read_config("deepseek_v3_fp8");
  EXPECT_TRUE(fp8.has_fp8 && fp8.has_extra_layers);
  ASSERT_EQ(fp8.notes.size(), 1U);
  EXPECT_EQ(fp8.notes[0].find("aux_loss_alpha = 0.001"), 0U);
}

// The two spellings of the rotary embedding mean the same.
TEST(HfConfig, TwoSpellings) {
  Json other = config_of("deepseek_v2_yarn");
  Json scaling = other["rope_scaling"];
  scaling["rope_type"] = scaling["type"];
  scaling.erase("type");
  scaling["rope_theta"] = other["rope_theta"];
  other.erase("rope_scaling");
  other.erase("rope_theta");
  other["rope_parameters"] = scaling;
  EXPECT_EQ(keys_of(other), keys_of(config_of("deepseek_v2_yarn")));
  other["rope_theta"] = 51.0;
  expect_refused(other, "use_cache", true, "rope_parameters.rope_theta = 50.0 contradicts");
}

// Absent fields have the defaults of transformers' classes.
TEST(HfConfig, Defaults) {
  expect_keys(keys_of({{"model_type", "mixtral"}}), {{"model.layers", "32"},
                                                     {"model.kv_heads", "8"},
                                                     {"model.head_dim", "128"},
                                                     {"model.rope_theta", "1000000"},
                                                     {"model.sliding_window", "0"}});
  expect_keys(keys_of({{"model_type", "olmoe"}}),
              {{"model.kv_heads", "16"}, {"model.clip_qkv", "0"}, {"router.normalize", "0"}});
  expect_keys(keys_of({{"model_type", "qwen2_moe"}}),
              {{"model.qkv_bias", "1"}, {"model.sliding_window", "0"}, {"model.experts", "60"}});
  expect_keys(keys_of({{"model_type", "deepseek_v3"}}),
              {{"model.dense_layers", "3"}, {"model.q_lora_rank", "1536"}, {"router.groups", "8"}});
  expect_keys(keys_of({{"model_type", "deepseek_v2"}, {"num_experts_per_tok", 6}}),
              {{"model.dense_layers", "0"}, {"model.q_lora_rank", "1536"}, {"router.groups", "1"}});
  const Keys oss = keys_of({{"model_type", "gpt_oss"}});
  expect_keys(oss, {{"model.rope_scaling", "yarn"},
                    {"model.rope_factor", "32"},
                    {"model.rope_original_max_seq", "4096"},
                    {"model.rope_truncate", "0"},
                    {"model.rope_theta", "150000"},
                    {"model.sliding_window", "128"}});
  EXPECT_EQ(oss.at("model.window_layers").substr(0, 7), "0, 2, 4");
  Json kv = config_of("mixtral");
  kv["num_key_value_heads"] = nullptr;
  EXPECT_EQ(keys_of(kv).at("model.kv_heads"), "4");
}

// Other names of the same fields.
TEST(HfConfig, OtherNames) {
  Json qwen = config_of("qwen3_moe");
  const Keys keys = keys_of(qwen);
  qwen["num_local_experts"] = qwen["num_experts"];
  EXPECT_EQ(keys_of(qwen), keys);
  qwen.erase("num_experts");
  EXPECT_EQ(keys_of(qwen), keys);
  Json oss = config_of("gpt_oss");
  oss.erase("num_experts_per_tok");
  EXPECT_EQ(keys_of(oss), keys_of(config_of("gpt_oss")));
  expect_refused(config_of("gpt_oss"), "experts_per_token", 3,
                 "experts_per_token = 3 contradicts num_experts_per_tok = 2");
}

// A field that is not known, or not with that value, is refused by name, in every family.
TEST(HfConfig, Refused) {
  for (const std::string& folder : kFolders) {
    const Json config = config_of(folder);
    const std::string family = config["model_type"].string();
    expect_refused(config, "logit_scale", 0.5, "logit_scale = 0.5 is not known for " + family);
    expect_refused(config, "hidden_act", "gelu",
                   "hidden_act = \"gelu\" is not supported for " + family + ": only \"silu\" is");
    expect_refused(config, "attention_dropout", 0.1, "attention_dropout = 0.1");
    expect_refused(config, "output_router_logits", true, "output_router_logits = true");
    expect_refused(config, "hidden_size", "x", "hidden_size = \"x\" is not a whole number");
    expect_refused(config, "hidden_size", 0, "hidden_size = 0 is not a whole number");
    expect_refused(config, "num_hidden_layers", 1e18, "num_hidden_layers");
    expect_refused(config, "vocab_size", 18446744073709551615U, "vocab_size");
    expect_refused(config, "tie_word_embeddings", 1, "tie_word_embeddings = 1 is neither");
    expect_refused(config, "rms_norm_eps", nullptr, "rms_norm_eps = null is not a number");
    expect_refused(config, "num_experts_per_tok", 500, "num_experts_per_tok = 500 is more than");
    expect_refused(config, "partial_rotary_factor", 0.5, "partial_rotary_factor = 0.5");
    for (const char* method : {"gptq", "awq", "mxfp4"}) {
      expect_refused(config, "quantization_config", {{"quant_method", method}},
                     std::string("has quant_method \"") + method + "\"");
    }
    const bool parameters = config.contains("rope_parameters");
    expect_refused(config, parameters ? "rope_parameters" : "rope_scaling",
                   {{"rope_type", "longrope"}, {"long_factor", {1}}}, "has kind 'longrope'");
    expect_refused(config, parameters ? "rope_parameters" : "rope_scaling",
                   {{"rope_type", "yarn"}, {"factor", 2.0}, {"beta", 1}}, ".beta = 1 is not known");
  }
  expect_refused(config_of("mixtral"), "num_key_value_heads", 3, "does not divide 4 heads");
  expect_refused(config_of("mixtral"), "sliding_window", 0, "sliding_window = 0");
  expect_refused(config_of("mixtral"), "router_jitter_noise", 0.1, "router_jitter_noise = 0.1");
  expect_refused(config_of("qwen2_moe"), "use_sliding_window", true, "needs layer_types");
  expect_refused(config_of("qwen3_moe"), "use_sliding_window", true, "needs max_window_layers = 0");
  expect_refused(config_of("qwen3_moe"), "mlp_only_layers", {3}, "mlp_only_layers = [3]");
  expect_refused(config_of("deepseek_v2"), "norm_topk_prob", true, "norm_topk_prob = true");
  expect_refused(config_of("deepseek_v2"), "topk_method", "noaux_tc", "topk_method = \"noaux_tc\"");
  expect_refused(config_of("deepseek_v3"), "scoring_func", "softmax", "scoring_func = \"softmax\"");
  expect_refused(config_of("deepseek_v3"), "n_group", 5, "does not divide 12 experts");
  expect_refused(config_of("deepseek_v3"), "topk_group", 9, "does not suit 3 groups");
  expect_refused(config_of("deepseek_v3"), "attention_bias", true, "attention_bias = true");
  expect_refused(config_of("deepseek_v3_fp8"), "quantization_config",
                 {{"quant_method", "fp8"}, {"weight_block_size", {64, 64}}},
                 "quantization_config.weight_block_size = [64,64]");
  expect_refused(config_of("gpt_oss"), "layer_types", {"full_attention"}, "has 1 entries");
  expect_refused(config_of("gpt_oss"), "swiglu_alpha", 1.0, "swiglu_alpha = 1.0");
}

// A value that is refused leads to no second problem of what would follow from its default.
TEST(HfConfig, OneProblemForOneValue) {
  const auto lines = [](const Json& config) {
    try {
      parse_hf_config(config.dump(), "config.json");
    } catch (const Error& error) {
      const std::string message = error.what();
      return std::count(message.begin(), message.end(), '\n');
    }
    return std::ptrdiff_t{0};
  };
  for (const std::string& folder : kFolders) {
    Json sound = config_of(folder);
    sound.erase("experts_per_token");  // another name, which would contradict
    for (const auto& [field, value] : sound.items()) {
      for (const Json& bad : {Json(0), Json("4"), Json(-1), Json(1e18)}) {
        Json config = sound;
        config[field] = field == "model_type" ? value : bad;
        EXPECT_LE(lines(config), 1) << folder << " " << field << " " << bad.dump();
      }
    }
  }
  Json heads = config_of("mixtral");
  heads["num_attention_heads"] = 0;
  EXPECT_EQ(lines(heads), 1);
  heads["hidden_act"] = "gelu";
  EXPECT_EQ(lines(heads), 2);
}

// All problems of a file are told at once; what is no config at all is told, too.
TEST(HfConfig, AllProblems) {
  Json config = config_of("mixtral");
  config["logit_scale"] = 0.5;
  config["hidden_size"] = -1;
  const std::string message = message_of([&] { keys_of(config); }, Exit::kBadData);
  EXPECT_NE(message.find("logit_scale"), std::string::npos);
  EXPECT_NE(message.find("hidden_size"), std::string::npos);
  const auto of_text = [](const std::string& text) {
    return message_of([&] { parse_hf_config(text, "config.json"); }, Exit::kBadData);
  };
  EXPECT_NE(of_text(R"({"model_type": "llama"})").find("'llama' is not supported"),
            std::string::npos);
  EXPECT_NE(of_text("[1]").find("has no model_type"), std::string::npos);
  EXPECT_NE(of_text("{\"model_type\"").find("is not JSON"), std::string::npos);
  EXPECT_NE(of_text(R"({"model_type": "mixtral", "model_type": "olmoe"})").find("twice"),
            std::string::npos);
  EXPECT_NE(of_text("{\"model_type\": " + std::string(100000, '[')).find("nested too deeply"),
            std::string::npos);
}

// What a folder's config.json says comes back from the one that is written for the same keys.
TEST(HfConfig, RoundTrip) {
  for (const std::string& folder : kFolders) {
    const HfConfig config = read_config(folder);
    EXPECT_EQ(&family_of(config), config.family) << folder;
    const Json written = hf_config_of(*config.family, config.model, config.router, DType::kBf16);
    EXPECT_EQ(written["torch_dtype"], "bfloat16");
    const HfConfig again = parse_hf_config(written.dump(), folder);
    EXPECT_EQ(canonical_keys(again), canonical_keys(config)) << folder;
    EXPECT_TRUE(again.notes.empty()) << folder;
  }
}

/// A plain model of ours.
HfConfig plain() {
  HfConfig config = read_config("mixtral");
  config.model.sliding_window = 0;
  config.router.capacity = 128;  // training alone
  config.router.balance = config::Balance::kAuxLoss;
  config.router.aux_loss = 0.01;
  return config;
}

// The family follows from what the model has, in whatever form the keys say it.
TEST(HfConfig, FamilyFor) {
  HfConfig config = plain();
  config::Model& model = config.model;
  model.kv_heads = model.head_dim = model.d_ff = 0;
  const auto json = [&] {
    return hf_config_of(family_of(config), model, config.router, DType::kF32);
  };
  EXPECT_EQ(&family_of(config), &mixtral());
  EXPECT_EQ(json()["num_key_value_heads"], 4);
  model.qk_norm = config::QkNorm::kHead;
  model.dense_layers = 1;
  EXPECT_EQ(&family_of(config), &qwen3_moe());
  EXPECT_EQ(json()["mlp_only_layers"], Json::array({0}));
  model.dense_layers = 0;
  model.qk_norm = config::QkNorm::kProjection;
  EXPECT_EQ(&family_of(config), &olmoe());
}

// What no family has is named.
TEST(HfConfig, NoFamily) {
  const auto refused = [](const std::string& key_and_value, const auto& change) {
    HfConfig config = plain();
    change(config);
    const std::string message = message_of([&] { family_of(config); }, Exit::kUsage);
    EXPECT_NE(message.find(key_and_value), std::string::npos) << message;
  };
  refused("model.experts = 0", [](HfConfig& c) { c.model.experts = 0; });
  refused("model.shared_experts = 1", [](HfConfig& c) { c.model.shared_experts = 1; });
  refused("router.task_gate = 1", [](HfConfig& c) { c.router.task_gate = true; });
  refused("router.threshold = 0.8", [](HfConfig& c) { c.router.threshold = 0.8; });
  refused("router.temperature = 0.5", [](HfConfig& c) { c.router.temperature = 0.5; });
  refused("router.balance = bias", [](HfConfig& c) { c.router.balance = config::Balance::kBias; });
  refused("model.rope_interleave = 1", [](HfConfig& c) { c.model.rope_interleave = true; });
  // What none of them can even say is named as their own configs would name it.
  HfConfig config = plain();
  config.model.top_k = 100;
  const std::string message = message_of([&] { family_of(config); }, Exit::kUsage);
  EXPECT_NE(message.find("num_experts_per_tok"), std::string::npos) << message;
}

// Random changes of a config end in keys or an error that names the file, never in a crash.
TEST(HfConfig, RandomDamage) {
  std::mt19937 random(1);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  int read = 0;
  for (int version = 0; version < 6000; ++version) {
    std::string text = testing::read_file(config_file(kFolders[below(kFolders.size())]));
    const std::size_t changes = 1 + below(2);
    for (std::size_t i = 0; i < changes; ++i) {
      const std::size_t at = below(text.size());
      if (below(8) == 0) {
        text.resize(at + 1);
      } else if (below(2) == 0) {
        text.insert(at, 1, "0123456789-e.[{}],\""[below(19)]);
      } else {
        text[at] = static_cast<char>(random());
      }
    }
    try {
      HfConfig config = parse_hf_config(text, "config.json");
      ++read;
      const Keys canonical = canonical_keys(config);
      canonicalise(config.model, config.router);
      EXPECT_EQ(canonical_keys(config), canonical);
      EXPECT_NO_THROW(family_of(config)) << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::kBadData) << error.what();
      EXPECT_EQ(std::string(error.what()).find("config.json: "), 0U) << error.what();
    }
  }
  EXPECT_GT(read, 100);
}

}  // namespace
}  // namespace moesaic::hf
