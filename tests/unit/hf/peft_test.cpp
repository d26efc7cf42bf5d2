// PEFT adapter folders: what PEFT itself has written, in all its forms, is read as PEFT computes
// it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "files/hdf5/file.h"
#include "files/hdf5/thread.h"
#include "unit/hf/adapters.h"

namespace moesaic::hf {
namespace {

/// What golden.h5 says of a case (golden/adapters/README.md).
struct Oracle {
  std::vector<std::string> names;
  std::vector<float> scales;
  std::map<std::string, std::vector<float>> merged;

  static Oracle read(const std::string& family, const std::string& name) {
    return files::hdf5_run([&] {
      const auto file = files::Hdf5File::open(adapter_of(family, "golden.h5"));
      Oracle oracle;
      oracle.names =
          Json::parse(file.string_attribute(name, "names")).get<std::vector<std::string>>();
      oracle.scales = file.read_all<float>(name + "/scales");
      for (const std::string& tensor : file.members(name + "/merged")) {
        oracle.merged[tensor] = file.read_all<float>(name + "/merged/" + tensor);
      }
      return oracle;
    });
  }
};

// Every folder that PEFT has written: the weights it updates, their scales, and W + scale B A.
TEST(Peft, AsPeftComputes) {
  for (const auto& [family, name] : kAdapters) {
    HfFolder base = HfFolder::open(folder_of(family));
    PeftFolder adapter = open_adapter(adapter_of(family, name), base);
    const Oracle oracle = Oracle::read(family, name);
    std::vector<std::string> names = adapter.names();
    std::sort(names.begin(), names.end());
    ASSERT_EQ(names, oracle.names) << family << "/" << name;
    for (std::size_t i = 0; i < names.size(); ++i) {
      EXPECT_NEAR(adapter.scale(names[i]), static_cast<double>(oracle.scales[i]), 1e-6) << names[i];
    }
    EXPECT_GE(oracle.merged.size(), 1U);
    for (const auto& [tensor, values] : oracle.merged) {
      std::vector<float> merged = whole(base, tensor);
      const std::vector<float> update = update_of(adapter, base, tensor);
      for (std::size_t i = 0; i < merged.size(); ++i) {
        ASSERT_NEAR(merged[i] + update[i], values[i], 2e-6) << family << "/" << name << tensor;
      }
    }
    EXPECT_EQ(adapter.base_name(), "families/" + family);
    EXPECT_FALSE(adapter.has("model.embed_tokens.weight"));
  }
}

/// Some numbers of PEFT's files by the rules of its documentation, written down once more.
TEST(Peft, EveryNumber) {
  const std::string layer = "model.layers.1.", stored = "base_model.model.model.layers.1.";
  const auto check = [&](const std::string& family, const std::string& name,
                         const std::string& weight, const auto& a, const auto& b) {
    const HfFolder base = HfFolder::open(folder_of(family));
    PeftFolder adapter = open_adapter(adapter_of(family, name), base);
    const Arrays arrays = arrays_of(adapter_of(family, name));
    const Extents shape = base.shape(layer + weight).value();
    const std::int64_t rank = adapter.rank(layer + weight);
    const std::vector<float> all_a = whole_a(adapter, base, layer + weight);
    const std::vector<float> all_b = whole_b(adapter, base, layer + weight);
    for (std::int64_t k = 0; k < rank; ++k) {
      for (std::int64_t i = 0; i < shape[1]; ++i) {
        ASSERT_EQ(all_a[static_cast<std::size_t>(k * shape[1] + i)], a(arrays, k, i)) << weight;
      }
      for (std::int64_t o = 0; o < shape[0]; ++o) {
        ASSERT_EQ(all_b[static_cast<std::size_t>(o * rank + k)], b(arrays, o, k)) << weight;
      }
    }
  };
  const auto at = [&](const std::string& name) {
    return [=](const Arrays& arrays, std::int64_t i, std::int64_t j) {
      return arrays.at(stored + name + ".weight").at({i, j});
    };
  };
  check("mixtral", "attention", "self_attn.v_proj.weight", at("self_attn.v_proj.lora_A"),
        at("self_attn.v_proj.lora_B"));
  check("mixtral", "experts", "mlp.experts.4.up_proj.weight",
        at("block_sparse_moe.experts.4.w3.lora_A"), at("block_sparse_moe.experts.4.w3.lora_B"));
  check("mixtral", "fused", "mlp.gate.weight", at("mlp.gate.lora_A"), at("mlp.gate.lora_B"));
  check("deepseek_v3", "experts", "mlp.experts.11.down_proj.weight",
        at("mlp.experts.11.down_proj.lora_A"), at("mlp.experts.11.down_proj.lora_B"));
  // Expert e of all: A [e r + k, i] and B [o, k experts + e].
  const auto all_a = [&](const std::string& name, std::int64_t expert, std::int64_t rank) {
    return [=](const Arrays& arrays, std::int64_t k, std::int64_t i) {
      return arrays.at(stored + name + ".lora_A.weight").at({expert * rank + k, i});
    };
  };
  const auto all_b = [&](const std::string& name, std::int64_t expert, std::int64_t experts,
                         std::int64_t turns, std::int64_t begin) {
    return [=](const Arrays& arrays, std::int64_t o, std::int64_t k) {
      return arrays.at(stored + name + ".lora_B.weight")
          .at({begin + turns * o, k * experts + expert});
    };
  };
  const std::string outer = "mlp.experts", inner = "mlp.experts.base_layer";
  check("deepseek_v3", "fused", "mlp.experts.7.gate_proj.weight", all_a(inner, 7, 3),
        all_b(inner, 7, 12, 1, 0));
  check("deepseek_v3", "fused", "mlp.experts.7.up_proj.weight", all_a(inner, 7, 3),
        all_b(inner, 7, 12, 1, 9));
  check("deepseek_v3", "fused", "mlp.experts.7.down_proj.weight", all_a(outer, 7, 3),
        all_b(outer, 7, 12, 1, 0));
  check("qwen3_moe", "fused", "mlp.experts.5.up_proj.weight", all_a(inner, 5, 2),
        all_b(inner, 5, 8, 1, 10));
  check("qwen3_moe", "down", "mlp.experts.5.down_proj.weight", all_a(outer, 5, 3),
        all_b(outer, 5, 8, 1, 0));
  check("gpt_oss", "fused", "mlp.experts.2.gate_proj.weight", all_a(inner, 2, 3),
        all_b(inner, 2, 6, 2, 0));
  check("gpt_oss", "fused", "mlp.experts.2.up_proj.weight", all_a(inner, 2, 3),
        all_b(inner, 2, 6, 2, 1));
  check("gpt_oss", "fused", "mlp.experts.2.down_proj.weight", all_a(outer, 2, 3),
        all_b(outer, 2, 6, 1, 0));
}

// What one rank reads of columns of A and rows of B is what the whole has there.
TEST(Peft, Parts) {
  for (const char* const family : {"mixtral", "gpt_oss"}) {
    const HfFolder base = HfFolder::open(folder_of(family));
    PeftFolder adapter = open_adapter(adapter_of(family, "fused"), base);
    for (const char* const part : {"gate_proj", "up_proj", "down_proj"}) {
      const std::string name = fmt::format("model.layers.1.mlp.experts.3.{}.weight", part);
      const Extents shape = base.shape(name).value();
      const std::vector<float> a = whole_a(adapter, base, name), b = whole_b(adapter, base, name);
      std::vector<float> columns(3 * 5), rows(4 * 3);
      adapter.read_a(name, {7, 5}, columns);
      adapter.read_b(name, {9, 4}, rows);
      for (std::int64_t k = 0; k < 3; ++k) {
        for (std::int64_t i = 0; i < 5; ++i) {
          EXPECT_EQ(columns[static_cast<std::size_t>(k * 5 + i)],
                    a[static_cast<std::size_t>(k * shape[1] + 7 + i)]);
        }
        for (std::int64_t o = 0; o < 4; ++o) {
          EXPECT_EQ(rows[static_cast<std::size_t>(o * 3 + k)],
                    b[static_cast<std::size_t>((9 + o) * 3 + k)]);
        }
      }
      adapter.read_b(name, {9, 0}, std::span<float>());
      message_of([&] { adapter.read_b(name, {shape[0] - 1, 4}, rows); }, Exit::kInternal);
    }
  }
}

// bf16 and fp16 are read as floats, and names may have the adapter's in them.
TEST(Peft, FormatsAndNames) {
  const Changed changed([](Json&, Arrays& arrays) {
    arrays[kQuery + "A.other.weight"] = arrays[kQuery + "A.weight"];
    arrays.erase(kQuery + "A.weight");
    arrays[kQuery + "A.other.weight"].dtype = "BF16";
    arrays[kQuery + "B.weight"].dtype = "F16";
  });
  PeftFolder narrow = changed.open();
  PeftFolder wide = open_adapter(adapter_of("mixtral", "attention"), changed.base);
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  const auto expect_near = [](const std::vector<float>& a, const std::vector<float>& b, float off) {
    for (std::size_t i = 0; i < a.size(); ++i) {
      EXPECT_NEAR(a[i], b[i], std::abs(b[i]) * off);
    }
    EXPECT_NE(a, b);
  };
  expect_near(whole_a(narrow, changed.base, name), whole_a(wide, changed.base, name), 1 / 256.0F);
  expect_near(whole_b(narrow, changed.base, name), whole_b(wide, changed.base, name), 1 / 2048.0F);
}

/// Stores A and B of joined experts as PEFT did before 0.19: A_old [e r + k, o] is B [o, k experts
/// + e], and B_old [i, k experts + e] is A [e r + k, i].
void exchange(Arrays& arrays, std::int64_t experts) {
  for (auto& [name, a] : arrays) {
    if (name.find(".mlp.experts.") == std::string::npos || !name.ends_with("lora_A.weight")) {
      continue;
    }
    Array& b = arrays.at(name.substr(0, name.size() - 8) + "B.weight");
    const std::int64_t row = a.shape[0], rank = row / experts, in = a.shape[1], out = b.shape[0];
    Array old_a{{row, out}, "F32", {}}, old_b{{in, row}, "F32", {}};
    for (std::int64_t at = 0; at < row; ++at) {
      for (std::int64_t o = 0; o < out; ++o) {
        old_a.values.push_back(b.at({o, at % rank * experts + at / rank}));
      }
    }
    for (std::int64_t i = 0; i < in; ++i) {
      for (std::int64_t at = 0; at < row; ++at) {
        old_b.values.push_back(a.at({at % experts * rank + at / experts, i}));
      }
    }
    a = old_a;
    b = old_b;
  }
}

// Files of PEFT before 0.19 hold A and B of joined experts under each other's names. Shapes tell,
// and the version where all are square: mixtral's down_proj here.
TEST(Peft, ExchangedExperts) {
  for (const auto& [family, experts] : std::vector<std::pair<std::string, std::int64_t>>{
           {"mixtral", 6}, {"deepseek_v3", 12}, {"gpt_oss", 6}}) {
    for (const bool square : {false, true}) {
      const auto without_gate_up = [&](Json& config, Arrays& arrays) {
        config["target_parameters"] = Json::array({"mlp.experts.down_proj"});
        config["peft_version"] = "0.18.1";
        std::erase_if(arrays, [](const auto& array) {
          return array.first.find(".mlp.gate.") != std::string::npos ||
                 array.first.find(".base_layer.") != std::string::npos;
        });
      };
      if (square && family != "mixtral") {
        continue;
      }
      const Changed changed(
          [&, count = experts](Json& config, Arrays& arrays) {
            if (square) {
              without_gate_up(config, arrays);
            }
            exchange(arrays, count);
          },
          family, "fused");
      PeftFolder old = changed.open();
      PeftFolder due = open_adapter(adapter_of(family, "fused"), changed.base);
      EXPECT_EQ(old.names().size() < due.names().size(), square);
      for (const std::string& name : old.names()) {
        ASSERT_EQ(update_of(old, changed.base, name), update_of(due, changed.base, name)) << name;
        const std::int64_t out = changed.base.shape(name).value()[0];
        std::vector<float> rows(static_cast<std::size_t>(2 * old.rank(name)));
        old.read_b(name, {out - 2, 2}, rows);
        const std::vector<float> all = whole_b(due, changed.base, name);
        EXPECT_TRUE(std::equal(rows.begin(), rows.end(), all.end() - std::ssize(rows))) << name;
      }
    }
  }
}

// The first key that matches counts, in the order of the file.
TEST(Peft, OrderOfPatterns) {
  for (const bool turned : {false, true}) {
    const Changed changed([](Json&, Arrays&) {});
    const fs::path file = changed.dir / "adapter" / "adapter_config.json";
    std::string text = testing::read_file(file);
    const std::string empty = "\"alpha_pattern\": {}";
    const std::string first = "\"q_proj\": 12", second = "\"layers\\\\.\\\\d\\\\..*\": 3";
    ASSERT_NE(text.find(empty), std::string::npos);
    text.replace(text.find(empty), empty.size(),
                 fmt::format("\"alpha_pattern\": {{{}, {}}}", turned ? second : first,
                             turned ? first : second));
    testing::write_file(file, text);
    const PeftFolder adapter = changed.open();
    EXPECT_EQ(adapter.alpha("model.layers.0.self_attn.q_proj.weight"), turned ? 3.0 : 12.0);
    EXPECT_EQ(adapter.alpha("model.layers.0.self_attn.v_proj.weight"), 3.0);
    EXPECT_EQ(adapter.scale("model.layers.1.self_attn.v_proj.weight"), 1.0);
  }
}

// Copies have one fingerprint, and a change of either file has another.
TEST(Peft, Fingerprint) {
  const Changed same([](Json&, Arrays&) {}), copy([](Json&, Arrays&) {});
  const Changed config([](Json& json, Arrays&) { json["lora_alpha"] = 7; });
  const Changed weights(
      [](Json&, Arrays& arrays) { arrays[kQuery + "A.weight"].values[0] += 1.0F; });
  const std::string due = fingerprint(same.open().texts(), false);
  EXPECT_EQ(fingerprint(copy.open().texts(), false), due);
  EXPECT_NE(fingerprint(config.open().texts(), false), due);
  EXPECT_NE(fingerprint(weights.open().texts(), false), due);
  EXPECT_NE(fingerprint(same.open().texts(), true), due);
}

}  // namespace
}  // namespace moesaic::hf
