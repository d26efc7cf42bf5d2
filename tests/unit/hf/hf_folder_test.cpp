// Hugging Face folders: every tensor of the families' fixtures under our names, and what is wrong
// with a folder.
#include <gtest/gtest.h>

#include <random>

#include "hf/family.h"
#include "hf/tensors.h"
#include "unit/hf/folders.h"

namespace moesaic::hf {
namespace {

std::string with(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

/// Each of our tensors, found in a family's files by rules that are written down here once more.
std::vector<float> expected(const std::string& family, const Arrays& arrays,
                            const std::string& name) {
  if (family == "gpt_oss" && name.find(".experts.") != std::string::npos) {
    const std::string prefix = name.substr(0, name.find(".experts.")) + ".experts.";
    const std::int64_t expert = std::stoll(name.substr(prefix.size()));
    const bool down = name.find("down_proj") != std::string::npos;
    const std::int64_t turn = down ? 1 : 2, shift = name.find("up_proj") != std::string::npos;
    const bool bias = name.ends_with("bias");
    const Array& stored =
        arrays.at(prefix + (down ? "down_proj" : "gate_up_proj") + (bias ? "_bias" : ""));
    std::vector<float> values;
    for (std::int64_t out = 0; out < stored.shape.back() / turn; ++out) {
      for (std::int64_t in = 0; in < (bias ? 1 : stored.shape[1]); ++in) {
        values.push_back(bias ? stored.at({expert, turn * out + shift})
                              : stored.at({expert, in, turn * out + shift}));
      }
    }
    return values;
  }
  std::string stored = name;
  if (family == "mixtral") {
    stored = with(name, "mlp", "block_sparse_moe");
    stored = with(with(with(stored, "gate_proj", "w1"), "down_proj", "w2"), "up_proj", "w3");
  } else if (family == "qwen2_moe") {
    stored = with(name, "shared_experts", "shared_expert");
  } else if (family == "gpt_oss") {
    stored = with(name, "mlp.gate", "mlp.router");
  }
  const Array& array = arrays.at(stored);
  std::vector<float> values = array.values;
  if (array.dtype == "F8_E4M3") {
    const Array& scales = arrays.at(stored + "_scale_inv");
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(values.size()); ++i) {
      const std::int64_t row = i / array.shape[1], column = i % array.shape[1];
      values[static_cast<std::size_t>(i)] *= scales.at({row / 128, column / 128});
    }
  }
  return values;
}

// Every tensor of every family has the values that its files say, and none is left over.
TEST(HfFolder, EveryTensor) {
  for (const std::string& name : kFolders) {
    HfFolder folder = HfFolder::open(folder_of(name));
    folder.check();
    const Arrays arrays = arrays_of(folder_of(name));
    const std::string family(folder.config().family->name);
    EXPECT_GT(folder.names().size(), 20U);
    for (const std::string& tensor : folder.names()) {
      ASSERT_EQ(whole(folder, tensor), expected(family, arrays, tensor)) << name << ": " << tensor;
    }
  }
}

// Names that stand for what differs between families.
TEST(HfFolder, Names) {
  const auto shape = [](const std::string& folder, const std::string& name) {
    return HfFolder::open(folder_of(folder)).shape("model.layers." + name).value_or(Extents{});
  };
  EXPECT_EQ(shape("mixtral", "1.mlp.experts.5.down_proj.weight"), (Extents{24, 24}));
  EXPECT_EQ(shape("qwen2_moe", "1.mlp.shared_experts.up_proj.weight"), (Extents{13, 30}));
  EXPECT_EQ(shape("qwen2_moe", "1.mlp.shared_expert_gate.weight"), (Extents{1, 30}));
  EXPECT_EQ(shape("qwen2_moe", "0.mlp.gate_proj.weight"), (Extents{17, 30}));
  EXPECT_EQ(shape("qwen2_moe", "0.mlp.gate.weight"), Extents{});
  EXPECT_EQ(shape("qwen2_moe", "0.self_attn.k_proj.bias"), (Extents{6}));
  EXPECT_EQ(shape("olmoe", "0.self_attn.k_norm.weight"), (Extents{12}));
  EXPECT_EQ(shape("qwen3_moe", "0.self_attn.k_norm.weight"), (Extents{10}));
  EXPECT_EQ(shape("deepseek_v3", "1.mlp.gate.e_score_correction_bias"), (Extents{12}));
  EXPECT_EQ(shape("deepseek_v2", "1.mlp.shared_experts.down_proj.weight"), (Extents{24, 18}));
  EXPECT_EQ(shape("deepseek_v2", "0.self_attn.kv_a_proj_with_mqa.weight"), (Extents{22, 24}));
  EXPECT_EQ(shape("gpt_oss", "2.mlp.experts.3.gate_proj.weight"), (Extents{14, 24}));
  EXPECT_EQ(shape("gpt_oss", "2.mlp.experts.3.down_proj.bias"), (Extents{24}));
  EXPECT_EQ(shape("gpt_oss", "2.mlp.gate.bias"), (Extents{6}));
  EXPECT_EQ(shape("gpt_oss", "2.self_attn.sinks"), (Extents{4}));
  EXPECT_FALSE(HfFolder::open(folder_of("qwen2_moe")).shape("lm_head.weight").has_value());
}

// Parts at odd places equal those of the whole, across the borders of FP8's blocks and in stacks.
TEST(HfFolder, Parts) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"deepseek_v3_fp8", "model.layers.0.mlp.gate_proj.weight"},  // (140, 24)
      {"deepseek_v3_fp8", "model.layers.0.mlp.down_proj.weight"},  // (24, 140)
      {"deepseek_v3_fp8", "model.layers.1.self_attn.kv_b_proj.weight"},
      {"gpt_oss", "model.layers.1.mlp.experts.4.up_proj.weight"},
      {"gpt_oss", "model.layers.1.mlp.experts.5.down_proj.weight"},
      {"mixtral", "model.layers.1.mlp.experts.5.up_proj.weight"}};
  for (const auto& [name, tensor] : cases) {
    HfFolder folder = HfFolder::open(folder_of(name));
    const Extents shape = folder.shape(tensor).value();
    const std::vector<float> all = whole(folder, tensor);
    for (std::int64_t row = 0; row < shape[0]; row += 9) {
      for (std::int64_t column = 0; column < shape[1]; column += 7) {
        const Extents extent{std::min<std::int64_t>(shape[0] - row, 131),
                             std::min<std::int64_t>(shape[1] - column, 129)};
        std::vector<float> part(static_cast<std::size_t>(extent[0] * extent[1]));
        folder.read(tensor, {row, column}, extent, part);
        for (std::size_t i = 0; i < part.size(); ++i) {
          const auto at = static_cast<std::int64_t>(i);
          const std::int64_t place = (row + at / extent[1]) * shape[1] + column + at % extent[1];
          ASSERT_EQ(part[i], all[static_cast<std::size_t>(place)]) << tensor;
        }
      }
    }
  }
  HfFolder folder = HfFolder::open(folder_of("gpt_oss"));
  const std::string bias = "model.layers.0.mlp.experts.2.up_proj.bias";
  const std::vector<float> all = whole(folder, bias);
  std::vector<float> part(5);
  folder.read(bias, {3}, {5}, part);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + 3));
  folder.read(bias, {3}, {0}, std::span<float>());
  message_of([&] { folder.read(bias, {10}, {5}, part); }, Exit::kInternal);
}

// Tensors of modules for multi-token prediction are listed, not refused.
TEST(HfFolder, LeftOut) {
  HfFolder fp8 = HfFolder::open(folder_of("deepseek_v3_fp8"));
  EXPECT_EQ(fp8.left_out(), (std::vector<std::string>{"model.layers.2.eh_proj.weight",
                                                      "model.layers.2.enorm.weight"}));
  EXPECT_TRUE(HfFolder::open(folder_of("deepseek_v3")).left_out().empty());
}

/// A copy of a fixture that can be spoilt.
class Copy {
 public:
  explicit Copy(const std::string& name) {
    for (const auto& entry : fs::directory_iterator(folder_of(name))) {
      if (entry.path().extension() != ".h5") {
        fs::copy(entry.path(), dir_.path());
      }
    }
  }
  const fs::path& path() const { return dir_.path(); }
  /// Replaces text in a file by text of the same length.
  void replace(const std::string& file, const std::string& from, const std::string& to) const {
    const std::string text = testing::read_file(path() / file);
    ASSERT_NE(text.find(from), std::string::npos) << from;
    testing::write_file(path() / file, with(text, from, to));
  }
  void set(const std::string& field, const Json& value) const {
    Json config = Json::parse(testing::read_file(path() / "config.json"));
    config[field] = value;
    testing::write_file(path() / "config.json", config.dump());
  }
  std::string problems(Exit code = Exit::kBadData) const {
    return message_of([&] { HfFolder::open(path()).check(); }, code);
  }

 private:
  TempDir dir_;
};

// Protects: where hosts have copies of their own, all of them have the weights that rank 0 saw.
TEST(HfFolder, AnotherCopy) {
  const Copy copy("deepseek_v3");
  const std::string file = "model-00001-of-00003.safetensors";
  std::string bytes = testing::read_file(copy.path() / file);
  const HfTexts texts = read_hf_texts(copy.path());
  HfFolder(HfFolder::of(copy.path(), texts)).check();
  bytes[bytes.size() - 3] ^= 1;  // still a finite number
  testing::write_file(copy.path() / file, bytes);
  expect_in(message_of([&] { HfFolder(HfFolder::of(copy.path(), texts)).check(); }, Exit::kBadData),
            file + ": is another file than rank 0 found there");
}

// One error lists what is missing, unknown and of another shape, and how much of each.
TEST(HfFolder, WrongTensors) {
  const Copy copy("mixtral");
  copy.replace("model.safetensors", "model.layers.1.self_attn.q_proj.weight",
               "model.layers.1.self_attn.q_proj.weird.");
  copy.set("vocab_size", 68);
  const std::string message = copy.problems();
  expect_in(message, "1 missing: model.layers.1.self_attn.q_proj.weight");
  expect_in(message, "1 that the model does not have: model.layers.1.self_attn.q_proj.weird.");
  expect_in(message,
            "2 of another shape: model.embed_tokens.weight [67, 24] (due: [68, 24]), "
            "lm_head.weight [67, 24] (due: [68, 24])");
  copy.set("num_hidden_layers", 4);
  const std::string more = copy.problems();
  expect_in(more, "51 missing: model.layers.1.self_attn.q_proj.weight, ");
  expect_in(more, ", ...");
  HfFolder folder = HfFolder::open(copy.path());
  std::vector<float> values(68 * 24);
  expect_in(message_of(
                [&] {
                  folder.read("lm_head.weight", {0, 0}, {68, 24}, values);
                },
                Exit::kBadData),
            "lm_head.weight [67, 24] (due: [68, 24])");
  values.resize(24);
  expect_in(
      message_of([&] { folder.read("model.layers.3.input_layernorm.weight", {0}, {24}, values); },
                 Exit::kBadData),
      "has no tensor model.layers.3.input_layernorm.weight");
  expect_in(message_of([&] { folder.read("model.other", {0}, {24}, values); }, Exit::kBadData),
            "the model has no tensor model.other");
}

// An output layer beside a tied embedding, and buffers of older versions, are no tensors too many.
TEST(HfFolder, Ignored) {
  const Copy tied("mixtral");
  tied.set("tie_word_embeddings", true);
  HfFolder folder = HfFolder::open(tied.path());
  EXPECT_NO_THROW(folder.check());
  EXPECT_FALSE(folder.shape("lm_head.weight").has_value());
  const Copy buffer("deepseek_v3_fp8");
  buffer.replace("model.safetensors", "model.layers.2.eh_proj.weight",
                 "model.l.1.rotary_emb.inv_freq");
  EXPECT_NO_THROW(HfFolder::open(buffer.path()).check());
}

// Index and files must agree, and every file must be there.
TEST(HfFolder, Index) {
  const std::string index = "model.safetensors.index.json";
  const std::string one = "model-00001-of-00003", two = "model-00002-of-00003";
  {
    const Copy copy("deepseek_v3");
    copy.replace(index, one, two);
    const std::string message = copy.problems();
    expect_in(message, "model-00001-of-00003.safetensors: holds tensor ");
    expect_in(message, "which model.safetensors.index.json does not say");
  }
  {
    const Copy copy("deepseek_v3");
    Json changed = Json::parse(testing::read_file(copy.path() / index));
    changed["weight_map"]["more"] = one + ".safetensors";
    testing::write_file(copy.path() / index, changed.dump());
    expect_in(copy.problems(), "has no tensor more, but model.safetensors.index.json says so");
    changed["weight_map"]["more"] = "../" + one + ".safetensors";
    testing::write_file(copy.path() / index, changed.dump());
    expect_in(copy.problems(), "is no file of the folder");
    changed["weight_map"] = 3;
    testing::write_file(copy.path() / index, changed.dump());
    expect_in(copy.problems(), "has no object 'weight_map'");
  }
  const Copy copy("deepseek_v3");
  fs::remove(copy.path() / (two + ".safetensors"));
  expect_in(copy.problems(Exit::kNoInput), two);
  fs::remove(copy.path() / index);
  expect_in(copy.problems(Exit::kNoInput), "has neither model.safetensors nor");
  fs::remove(copy.path() / "config.json");
  EXPECT_FALSE(HfFolder::is_one(copy.path()));
  copy.problems(Exit::kNoInput);
}

// e4m3 without its scales, or where config.json does not name it, is refused by name.
TEST(HfFolder, WrongScales) {
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  const Copy missing("deepseek_v3_fp8");
  missing.replace("model.safetensors", name + "_scale_inv", name + "_scale_xyz");
  const std::string message = missing.problems();
  expect_in(message, "1 in a format that cannot be read: " + name + " (e4m3, without " + name +
                         "_scale_inv)");
  expect_in(message, "1 that the model does not have: " + name + "_scale_xyz");
  HfFolder folder = HfFolder::open(missing.path());
  std::vector<float> values(24);
  expect_in(message_of(
                [&] {
                  folder.read(name, {0, 0}, {24, 1}, values);
                },
                Exit::kBadData),
            "without " + name);
  const Copy silent("deepseek_v3_fp8");
  silent.set("quantization_config", nullptr);
  expect_in(silent.problems(), "e4m3, but config.json has no quantization_config");
}

// Random changes of the index or of the files' headers end in an error of input or in a model that
// is whole, never in a crash.
TEST(HfFolder, RandomDamage) {
  const Copy copy("deepseek_v3");
  std::mt19937 random(1);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  const std::vector<std::string> files{"model.safetensors.index.json", "config.json",
                                       "model-00002-of-00003.safetensors"};
  for (int version = 0; version < 600; ++version) {
    const fs::path file = copy.path() / files[below(files.size())];
    const std::string good = testing::read_file(file);
    std::string bad = good;
    const std::size_t at = below(std::min<std::size_t>(bad.size(), 4000));
    bad[at] = below(2) == 0 ? static_cast<char>(random()) : "0123456789[]{},:\""[below(17)];
    testing::write_file(file, bad);
    try {
      HfFolder folder = HfFolder::open(copy.path());
      folder.check();
      whole(folder, "model.norm.weight");
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == Exit::kBadData || error.code() == Exit::kNoInput) << error.what();
      EXPECT_NE(std::string(error.what()).find(copy.path().filename().string()), std::string::npos)
          << error.what();
    }
    testing::write_file(file, good);
  }
}

}  // namespace
}  // namespace moesaic::hf
