// What is written as a PEFT folder reads back the same, and says what PEFT must adapt.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <regex>
#include <set>

#include "hf/family.h"
#include "model/parameter/adapter_rules.h"
#include "unit/hf/adapters.h"

namespace moesaic::hf {
namespace {

using Names = std::vector<std::string>;

PeftFolderRequest request_of(const HfFolder& base, const fs::path& folder, Names names) {
  const HfConfig& config = base.config();
  return {folder, config.family, config.model, config.router, std::move(names),
          3,      6.0,           false,        "base/model",  DType::kF32};
}

/// Serves an adapter's A and B as tensors of our names.
ReadPart reader_of(PeftFolder& adapter) {
  return [&](const std::string& name, const Extents& offset, const Extents& extent,
             std::span<float> values) {
    const std::string weight = model::adapted_weight(name);
    ASSERT_TRUE(adapter.has(weight)) << weight;
    if (name == model::lora_a_name(weight)) {
      ASSERT_EQ(extent[0], adapter.rank(weight));
      adapter.read_a(weight, {offset[1], extent[1]}, values);
    } else {
      ASSERT_EQ(name, model::lora_b_name(weight));
      adapter.read_b(weight, {offset[0], extent[0]}, values);
    }
  };
}

/// Serves the same number everywhere: an update of 6e-4 with rank 3 and alpha 6.
void read_hundredths(const std::string&, const Extents&, const Extents&, std::span<float> values) {
  std::fill(values.begin(), values.end(), 0.01F);
}

Json config_in(const fs::path& folder) {
  return Json::parse(testing::read_file(folder / "adapter_config.json"));
}

/// Folders go to MOESAIC_PEFT_OUT, where it is set, for a test that has PEFT read them.
fs::path out_of(const TempDir& dir) {
  const char* const given = std::getenv("MOESAIC_PEFT_OUT");
  return given != nullptr ? fs::path(given) : dir.path();
}

// Every folder of one rank and alpha is written anew, and has the same updates to the bit.
TEST(PeftWrite, RoundTrip) {
  for (const auto& [family, name] : kAdapters) {
    if (name == "patterns" || (family == "qwen3_moe" && name == "fused")) {
      continue;  // of several ranks
    }
    const HfFolder base = HfFolder::open(folder_of(family));
    PeftFolder from = open_adapter(adapter_of(family, name), base);
    const TempDir dir;
    const fs::path folder = out_of(dir) / family / name;
    write_peft_folder(request_of(base, folder, from.names()), reader_of(from),
                      comm::Communicator());
    EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 2);
    PeftFolder to = open_adapter(folder, base);
    EXPECT_EQ(to.base_name(), "base/model");
    EXPECT_EQ(to.dropout(), 0.0);
    EXPECT_EQ(to.names(), from.names()) << family << "/" << name;
    for (const std::string& weight : from.names()) {
      ASSERT_EQ(to.scale(weight), from.scale(weight));
      ASSERT_EQ(update_of(to, base, weight), update_of(from, base, weight)) << weight;
    }
  }
}

// Single experts have the names and numbers of PEFT's own files, to the byte.
TEST(PeftWrite, SameTensors) {
  for (const auto& [family, name] : kAdapters) {
    if (name != "experts" && name != "all" && name != "attention" && name != "shared") {
      continue;
    }
    const HfFolder base = HfFolder::open(folder_of(family));
    PeftFolder from = open_adapter(adapter_of(family, name), base);
    const TempDir dir;
    write_peft_folder(request_of(base, dir / "out", from.names()), reader_of(from),
                      comm::Communicator());
    const Arrays theirs = arrays_of(adapter_of(family, name)), ours = arrays_of(dir / "out");
    ASSERT_EQ(ours.size(), theirs.size());
    for (const auto& [stored, array] : theirs) {
      ASSERT_EQ(ours.at(stored).shape, array.shape) << stored;
      ASSERT_EQ(ours.at(stored).values, array.values) << stored;
    }
  }
}

// All weights of every family that may have updates.
TEST(PeftWrite, Everything) {
  for (const std::string& family : kFolders) {
    const HfFolder base = HfFolder::open(folder_of(family));
    Names names;
    for (const std::string& name : base.names()) {
      if (name.starts_with("model.layers.") && base.shape(name).value().size() == 2) {
        names.push_back(name);
      }
    }
    const TempDir dir;
    const fs::path folder = out_of(dir) / family / "everything";
    write_peft_folder(request_of(base, folder, names), read_hundredths, comm::Communicator());
    PeftFolder read = open_adapter(folder, base);
    ASSERT_EQ(read.names(), names);
    for (const std::string& name : names) {
      const std::vector<float> update = update_of(read, base, name);
      ASSERT_TRUE(std::all_of(update.begin(), update.end(), [](float v) {
        return std::abs(v - 6e-4F) < 1e-8F;
      })) << name;
    }
  }
}

/// What is written for these weights, and which of them have updates that are not zero.
struct Written {
  Written(
      const std::string& family, const Names& names,
      const std::function<void(PeftFolderRequest&)>& change = [](PeftFolderRequest&) {})
      : base(HfFolder::open(folder_of(family))) {
    PeftFolderRequest request = request_of(base, dir / "out", names);
    change(request);
    write_peft_folder(request, read_hundredths, comm::Communicator());
    config = config_in(dir / "out");
    PeftFolder read = open_adapter(dir / "out", base);
    all = read.names();
    for (const std::string& name : all) {
      const std::vector<float> update = update_of(read, base, name);
      if (std::any_of(update.begin(), update.end(), [](float v) { return v != 0.0F; })) {
        updated.insert(name);
      }
    }
  }
  TempDir dir;
  HfFolder base;
  Json config;
  Names all;
  std::set<std::string> updated;
};

// PEFT joins experts: what has no update is written along as zeros.
TEST(PeftWrite, Zeros) {
  const Names up{"model.layers.1.mlp.experts.4.up_proj.weight"};
  const Written mixtral("mixtral", up);
  EXPECT_EQ(mixtral.all.size(), 6U * 3U);
  EXPECT_EQ(mixtral.updated, std::set<std::string>(up.begin(), up.end()));
  const Names down{"model.layers.1.mlp.experts.4.down_proj.weight",
                   "model.layers.2.self_attn.q_proj.weight"};
  const Written qwen("qwen3_moe", down);
  EXPECT_EQ(qwen.all.size(), 8U + 1U);
  EXPECT_EQ(qwen.updated, std::set<std::string>(down.begin(), down.end()));
  const Written gpt_oss("gpt_oss", up);
  EXPECT_EQ(gpt_oss.all.size(), 6U * 2U);
  EXPECT_EQ(gpt_oss.updated, std::set<std::string>(up.begin(), up.end()));
}

/// The modules of a model, as transformers 4 calls them, that target_modules means.
std::set<std::string> meant(const Written& written, const std::vector<std::string>& modules) {
  const Json& targets = written.config["target_modules"];
  std::set<std::string> found;
  for (const std::string& module : modules) {
    bool is_meant = false;
    if (targets.is_string()) {
      is_meant = std::regex_match(module, std::regex(targets.string()));
    } else {
      for (const Json& target : targets) {
        is_meant = is_meant || module.ends_with("." + target.string());
      }
    }
    if (is_meant) {
      found.insert(module);
    }
  }
  return found;
}

// A list where last names are enough; else a pattern that means just what has updates.
TEST(PeftWrite, TargetModules) {
  const auto in_all = [](std::int64_t layers, const std::string& rest) {
    Names names;
    for (std::int64_t i = 0; i < layers; ++i) {
      names.push_back(fmt::format("model.layers.{}.{}.weight", i, rest));
    }
    return names;
  };
  const Written list("mixtral", in_all(2, "self_attn.q_proj"));
  EXPECT_EQ(list.config["target_modules"], Json::array({"q_proj"}));
  EXPECT_TRUE(list.config["target_parameters"].is_null());
  const Written one_layer("mixtral", {"model.layers.1.self_attn.q_proj.weight"});
  EXPECT_EQ(one_layer.config["target_modules"], "model\\.layers\\.(1)\\.self_attn\\.q_proj");
  const Written router("mixtral", in_all(2, "mlp.gate"));
  EXPECT_EQ(router.config["target_modules"], Json::array({"gate"}));

  const std::vector<std::string> modules{
      "model.layers.0.mlp.gate_proj",
      "model.layers.1.mlp.experts.3.gate_proj",
      "model.layers.2.mlp.experts.11.down_proj",
      "model.layers.1.mlp.shared_experts.gate_proj",
      "model.layers.1.mlp.experts.gate_proj",  // what PEFT tries with transformers 5
      "model.layers.2.self_attn.o_proj"};
  const Written experts("deepseek_v3", {"model.layers.1.mlp.experts.3.gate_proj.weight",
                                        "model.layers.2.mlp.experts.0.gate_proj.weight"});
  EXPECT_EQ(meant(experts, modules), (std::set<std::string>{modules[1], modules[2], modules[4]}));
  const Written mixtral("mixtral", {"model.layers.1.mlp.experts.3.gate_proj.weight"});
  EXPECT_EQ(meant(mixtral,
                  {"model.layers.1.block_sparse_moe.experts.0.w2", "model.layers.1.mlp.experts.w3",
                   "model.layers.0.block_sparse_moe.experts.0.w2"}),
            (std::set<std::string>{"model.layers.1.block_sparse_moe.experts.0.w2",
                                   "model.layers.1.mlp.experts.w3"}));
}

// Routers that are no linear modules, stacked experts, dense layers and shared experts are
// parameters: PEFT would not find their modules with transformers 5.
TEST(PeftWrite, TargetParameters) {
  const Names names{"model.layers.1.mlp.gate.weight", "model.layers.2.mlp.gate.weight"};
  const Written deepseek("deepseek_v3", names);
  EXPECT_EQ(deepseek.config["target_modules"], Json::array());
  EXPECT_EQ(deepseek.config["target_parameters"], Json::array({"mlp.gate.weight"}));
  const Written gpt_oss(
      "gpt_oss",
      {"model.layers.1.mlp.gate.weight", "model.layers.0.mlp.experts.2.gate_proj.weight",
       "model.layers.0.mlp.experts.2.down_proj.weight"},
      [](PeftFolderRequest& request) { request.rslora = true; });
  EXPECT_EQ(
      gpt_oss.config["target_parameters"],
      Json::array({"model.layers.0.mlp.experts.down_proj",
                   "model.layers.0.mlp.experts.gate_up_proj", "model.layers.1.mlp.router.weight"}));
  EXPECT_EQ(gpt_oss.config["rank_pattern"], (Json{{"gate_up_proj", 6}}));
  PeftFolder read = open_adapter(gpt_oss.dir / "out", gpt_oss.base);
  EXPECT_DOUBLE_EQ(read.scale("model.layers.0.mlp.experts.2.gate_proj.weight"), 6 / std::sqrt(3.0));
  EXPECT_DOUBLE_EQ(read.scale("model.layers.1.mlp.gate.weight"), 6 / std::sqrt(3.0));
  // PEFT does not know by itself what transformers 5 makes of the experts of this family.
  const Written qwen2("qwen2_moe", {"model.layers.1.mlp.experts.2.up_proj.weight"});
  EXPECT_EQ(qwen2.config["target_parameters"],
            Json::array({"model.layers.1.mlp.experts.down_proj",
                         "model.layers.1.mlp.experts.gate_up_proj"}));
  EXPECT_EQ(qwen2.config["rank_pattern"], (Json{{"gate_up_proj", 6}}));
}

// The fields that PEFT must find.
TEST(PeftWrite, Config) {
  const Written written("qwen3_moe", {"model.layers.0.self_attn.q_proj.weight"},
                        [](PeftFolderRequest& request) {
                          request.alpha = 4.5;
                          request.rslora = true;
                        });
  const Json& config = written.config;
  EXPECT_EQ(config["peft_type"], "LORA");
  EXPECT_EQ(config["task_type"], "CAUSAL_LM");
  EXPECT_EQ(config["base_model_name_or_path"], "base/model");
  EXPECT_EQ(config["r"], 3);
  EXPECT_EQ(config["lora_alpha"], 4.5);
  EXPECT_EQ(config["use_rslora"], true);
  EXPECT_EQ(config["bias"], "none");
  EXPECT_EQ(config["lora_dropout"], 0.0);
  EXPECT_EQ(config["inference_mode"], true);
  EXPECT_EQ(config["use_dora"], false);
  EXPECT_EQ(config["fan_in_fan_out"], false);
  EXPECT_TRUE(config["modules_to_save"].is_null());
}

// In bf16 the numbers are those next to the ones before.
TEST(PeftWrite, Narrow) {
  const HfFolder base = HfFolder::open(folder_of("mixtral"));
  PeftFolder from = open_adapter(adapter_of("mixtral", "attention"), base);
  const TempDir dir;
  PeftFolderRequest request = request_of(base, dir / "out", from.names());
  request.type = DType::kBf16;
  write_peft_folder(request, reader_of(from), comm::Communicator());
  PeftFolder to = open_adapter(dir / "out", base);
  const std::string name = from.names()[0];
  const std::vector<float> narrow = whole_a(to, base, name), wide = whole_a(from, base, name);
  for (std::size_t i = 0; i < wide.size(); ++i) {
    EXPECT_NEAR(narrow[i], wide[i], std::abs(wide[i]) / 256);
  }
  for (const auto& [stored, array] : arrays_of(dir / "out")) {
    EXPECT_EQ(array.dtype, "BF16") << stored;
  }
}

// What is refused leaves no folder, and what fails leaves none that looks finished.
TEST(PeftWrite, Refusals) {
  const HfFolder base = HfFolder::open(folder_of("mixtral"));
  const TempDir dir;
  const comm::Communicator world;
  for (const char* const name :
       {"model.embed_tokens.weight", "lm_head.weight", "model.layers.0.input_layernorm.weight",
        "model.layers.7.self_attn.q_proj.weight"}) {
    const std::string message = message_of(
        [&] { write_peft_folder(request_of(base, dir / "out", {name}), read_hundredths, world); },
        Exit::kUsage);
    expect_in(message, std::string("cannot hold adapters of ") + name);
    EXPECT_FALSE(fs::exists(dir / "out"));
  }
  const PeftFolderRequest good =
      request_of(base, dir / "out", {"model.layers.0.self_attn.q_proj.weight"});
  const ReadPart fails = [](const std::string& name, const Extents&, const Extents&,
                            std::span<float>) {
    if (name.ends_with("lora_B.weight")) {
      throw Error(Exit::kBadData, name + " is damaged");
    }
  };
  message_of([&] { write_peft_folder(good, fails, world); }, Exit::kBadData);
  EXPECT_TRUE(fs::is_empty(dir / "out"));
  const ReadPart infinite = [](const std::string&, const Extents&, const Extents&,
                               std::span<float> values) { values[5] = 1e38F * 10; };
  expect_in(message_of([&] { write_peft_folder(good, infinite, world); }, Exit::kBadNumbers),
            "q_proj.lora_A.weight has inf at [0, 5]");
  testing::write_file(dir / "out" / ".unfinished", "");
  testing::write_file(dir / "out" / "adapter_model.safetensors.tmp", "half");
  write_peft_folder(good, read_hundredths, world);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir / "out"), {}), 2);
  expect_in(
      message_of([&] { write_peft_folder(good, read_hundredths, world); }, Exit::kCannotCreate),
      "is not empty");
}

}  // namespace
}  // namespace moesaic::hf
