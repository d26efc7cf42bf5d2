// What is wrong with a PEFT adapter folder is refused with a message that names it, and nothing
// else is.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <tuple>

#include "hf/family.h"
#include "unit/hf/adapters.h"

namespace moesaic::hf {
namespace {

// Whatever changes what an adapter computes is refused by its key.
TEST(PeftRefusals, RefusedConfigs) {
  const std::vector<std::tuple<std::string, Json, std::string>> cases{
      {"peft_type", "IA3", "peft_type = \"IA3\" is not supported: only LORA is"},
      {"peft_type", nullptr, "peft_type is missing"},
      {"use_dora", true, "use_dora = true is DoRA"},
      {"use_qalora", true, "use_qalora = true is QA-LoRA"},
      {"lora_bias", true, "lora_bias = true has biases"},
      {"bias", "all", "bias = \"all\" is not supported for LoRA adapters: only \"none\" is"},
      {"fan_in_fan_out", true, "fan_in_fan_out = true is for weights"},
      {"modules_to_save", Json::array({"lm_head"}), "modules_to_save = [\"lm_head\"] has whole"},
      {"trainable_token_indices", Json::array({3}), "trainable_token_indices = [3] has rows"},
      {"layer_replication", Json::array({Json::array({0, 2})}), "layer_replication = [[0,2]]"},
      {"megatron_config", Json{{"a", 1}}, "megatron_config = {\"a\":1} is for a model of Megatron"},
      {"init_lora_weights", "pissa_niter_4", "changes the base weights"},
      {"init_lora_weights", "loftq", "changes the base weights"},
      {"kasa_config", Json{{"beta", 1}}, "kasa_config"},
      {"new_kind", 7, "new_kind = 7 is not known for LoRA adapters"},
      {"r", 0, "r = 0 is not a whole number from 1"},
      {"r", nullptr, "r = null is not a whole number"},
      {"lora_alpha", "x", "lora_alpha = \"x\" is not a number"},
      {"rank_pattern", Json{{"q_proj", 0.5}}, "has no rank for q_proj"},
      {"alpha_pattern", Json{{"q_proj(", 1}}, "has the key q_proj(, which is not understood"}};
  for (const auto& [key, value, message] : cases) {
    const Changed changed(
        [name = key, what = value](Json& config, Arrays&) { config[name] = what; });
    const std::string refusal = changed.refusal();
    expect_in(refusal, "adapter_config.json: this adapter cannot be used");
    expect_in(refusal, message);
  }
  const Changed several([](Json& config, Arrays&) {
    config["use_dora"] = true;
    config["bias"] = "lora_only";
  });
  expect_in(several.refusal(), "use_dora");
  expect_in(several.refusal(), "bias");
}

// What only training or loading reads has no effect; nor has a new key that says nothing.
TEST(PeftRefusals, AcceptedConfigs) {
  const Changed changed([](Json& config, Arrays&) {
    config["lora_dropout"] = 0.25;
    config["inference_mode"] = false;
    config["init_lora_weights"] = "gaussian";
    config["target_modules"] = "all-linear";
    config["brand_new"] = nullptr;
    config["newer"] = false;
    config["base_model_name_or_path"] = nullptr;
    config.erase("peft_version");
  });
  const PeftFolder adapter = changed.open();
  EXPECT_EQ(adapter.dropout(), 0.25);
  EXPECT_EQ(adapter.base_name(), "");
  EXPECT_EQ(adapter.names().size(), 4U);
}

// All tensors that are wrong are told at once, with both shapes.
TEST(PeftRefusals, WrongTensors) {
  const std::string prefix = "base_model.model.";
  const Array one{{1}, "F32", {1.0F}};
  const Changed changed([&](Json&, Arrays& arrays) {
    arrays.erase(kQuery + "B.weight");
    arrays[prefix + "model.layers.0.self_attn.v_proj.lora_A.weight"] = {
        {2, 24}, "F32", std::vector<float>(48)};
    arrays[prefix + "model.layers.2.self_attn.v_proj.lora_A.weight"] = one;
    arrays[prefix + "model.layers.0.self_attn.q_proj.weight"] = one;
    arrays["model.layers.0.self_attn.q_proj.lora_A.weight"] = one;
    arrays[prefix + "lm_head.lora_A.weight"] = one;
    arrays[prefix + "model.embed_tokens.lora_embedding_A"] = one;
    arrays[prefix + "model.layers.0.self_attn.q_proj.lora_magnitude_vector"] = one;
    arrays[prefix + "model.layers.0.self_attn.q_proj.lora_B.bias"] = one;
    arrays[prefix + "model.layers.1.self_attn.q_proj.lora_A.default.weight"] =
        arrays[prefix + "model.layers.1.self_attn.q_proj.lora_A.weight"];
  });
  const std::string message = changed.refusal();
  expect_in(message,
            "adapter_model.safetensors: the tensors are not those of an adapter of this "
            "mixtral model:");
  expect_in(message, "1 missing: " + kQuery + "B.weight");
  expect_in(message, "1 of another shape: " + prefix +
                         "model.layers.0.self_attn.v_proj.lora_A.weight [2, 24] (due: [3, 24])");
  expect_in(message,
            "3 that the model does not have: base_model.model.model.layers.0.self_attn."
            "q_proj.weight, base_model.model.model.layers.2.self_attn.v_proj.lora_A.weight, "
            "model.layers.0.self_attn.q_proj.lora_A.weight");
  expect_in(message, "of the head, whose adapters are not supported: " + prefix + "lm_head");
  expect_in(message, "of the embedding, whose adapters are not supported: " + prefix + "model.emb");
  expect_in(message, "of DoRA, which is not supported");
  expect_in(message, "that are biases, which are not supported");
  expect_in(message, "1 stored twice: " + prefix +
                         "model.layers.1.self_attn.q_proj.lora_A.default.weight and " + prefix +
                         "model.layers.1.self_attn.q_proj.lora_A.weight");
}

// One weight may not have two updates: by itself, and among those of all experts.
TEST(PeftRefusals, TwoForms) {
  const Changed changed(
      [](Json&, Arrays& arrays) {
        const std::string expert = "base_model.model.model.layers.1.mlp.experts.2.down_proj.lora_";
        arrays[expert + "A.weight"] = {{3, 10}, "F32", std::vector<float>(30)};
        arrays[expert + "B.weight"] = {{24, 3}, "F32", std::vector<float>(72)};
      },
      "qwen3_moe", "fused");
  expect_in(changed.refusal(),
            "1 stored twice: the update of model.layers.1.mlp.experts.2.down_proj.weight");
}

// Ranks that the config does not have are wrong shapes, in joined experts, too.
TEST(PeftRefusals, OtherRank) {
  const Changed changed([](Json& config, Arrays&) { config["r"] = 4; }, "deepseek_v3", "fused");
  const std::string message = changed.refusal();
  expect_in(message, "mlp.experts.base_layer.lora_A.weight [36, 24] (due: [48, 24])");
  expect_in(message, "mlp.experts.lora_B.weight [24, 36] (due: [24, 48])");
}

// An adapter of another model is none of this one.
TEST(PeftRefusals, OtherModel) {
  const HfFolder base = HfFolder::open(folder_of("qwen3_moe"));
  const std::string message = message_of(
      [&] { open_adapter(adapter_of("deepseek_v3", "attention"), base); }, Exit::kBadData);
  expect_in(message, "q_a_proj.lora_A.weight");
  expect_in(message, "that the model does not have");
}

TEST(PeftRefusals, NoTensors) {
  const Changed changed([](Json&, Arrays& arrays) { arrays.clear(); });
  expect_in(changed.refusal(), "has no tensors");
}

// A number that is not finite is told with its place when it is read.
TEST(PeftRefusals, NotFinite) {
  const Changed changed([](Json&, Arrays&) {});
  const fs::path file = changed.dir / "adapter" / "adapter_model.safetensors";
  std::string bytes = testing::read_file(file);
  const float bad = std::nanf("");
  std::memcpy(bytes.data() + bytes.size() - sizeof(bad), &bad, sizeof(bad));
  testing::write_file(file, bytes);
  PeftFolder adapter = changed.open();
  expect_in(
      message_of([&] { whole_b(adapter, changed.base, adapter.names().back()); }, Exit::kBadData),
      "model.layers.1.self_attn.v_proj.lora_B.weight");
}

// A rank that finds another file than the one whose texts it was given does not read it.
TEST(PeftRefusals, AnotherFile) {
  const Changed changed([](Json&, Arrays& arrays) { arrays[kQuery + "B.weight"].values[0] = 9; });
  const HfConfig& config = changed.base.config();
  PeftFolder adapter =
      PeftFolder::of(changed.dir / "adapter", read_peft_texts(adapter_of("mixtral", "attention")),
                     *config.family, config.model, config.router);
  expect_in(message_of([&] { whole_a(adapter, changed.base, adapter.names()[0]); }, Exit::kBadData),
            "is another file than rank 0 found there");
}

TEST(PeftRefusals, NoFolder) {
  const TempDir dir;
  const HfFolder base = HfFolder::open(folder_of("mixtral"));
  EXPECT_FALSE(PeftFolder::is_one(dir.path()));
  EXPECT_TRUE(PeftFolder::is_one(adapter_of("mixtral", "all")));
  expect_in(message_of([&] { open_adapter(dir.path(), base); }, Exit::kNoInput),
            "adapter_config.json");
  testing::write_file(dir / "adapter_config.json", "{}");
  EXPECT_FALSE(PeftFolder::is_one(dir.path()));
  expect_in(message_of([&] { open_adapter(dir.path(), base); }, Exit::kNoInput),
            "has no adapter_model.safetensors");
  testing::write_file(dir / "adapter_model.safetensors", "short");
  expect_in(message_of([&] { open_adapter(dir.path(), base); }, Exit::kBadData), "too few");
  fs::copy_file(adapter_of("mixtral", "all") / "adapter_model.safetensors",
                dir / "adapter_model.safetensors", fs::copy_options::overwrite_existing);
  testing::write_file(dir / "adapter_config.json", "[]");
  expect_in(message_of([&] { open_adapter(dir.path(), base); }, Exit::kBadData),
            "is not a JSON object");
}

}  // namespace
}  // namespace moesaic::hf
