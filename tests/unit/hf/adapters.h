#pragma once

#include "files/durable.h"
#include "hf/peft.h"
#include "hf/safetensors/safetensors.h"
#include "unit/hf/folders.h"

// The PEFT folders of tests/golden, and their numbers by other code.
namespace moesaic::hf {

/// Families and cases of golden/adapters.
inline const std::vector<std::pair<std::string, std::string>> kAdapters{
    {"mixtral", "attention"},   {"mixtral", "experts"},   {"mixtral", "all"},
    {"mixtral", "fused"},       {"mixtral", "patterns"},  {"qwen3_moe", "attention"},
    {"qwen3_moe", "experts"},   {"qwen3_moe", "fused"},   {"qwen3_moe", "down"},
    {"deepseek_v3", "experts"}, {"deepseek_v3", "fused"}, {"deepseek_v3", "attention"},
    {"deepseek_v3", "shared"},  {"gpt_oss", "attention"}, {"gpt_oss", "fused"}};

inline fs::path adapter_of(const std::string& family, const std::string& name) {
  return fs::path(MOESAIC_GOLDEN_DIR) / "adapters" / family / name;
}

inline PeftFolder open_adapter(const fs::path& path, const HfFolder& base) {
  const HfConfig& config = base.config();
  return PeftFolder::open(path, *config.family, config.model, config.router);
}

/// A copy of an adapter with another config, or other tensors (F32 but where their dtype says BF16
/// or F16).
inline void copy_adapter(const fs::path& from, const fs::path& to,
                         const std::function<void(Json&, Arrays&)>& change) {
  Json config = Json::parse(testing::read_file(from / "adapter_config.json"));
  Arrays arrays = arrays_of(from);
  change(config, arrays);
  files::make_folder(to);
  testing::write_file(to / "adapter_config.json", config.dump(2));
  std::vector<TensorToStore> tensors;
  for (const auto& [name, array] : arrays) {
    tensors.push_back({name, stored_dtype(array.dtype).value(), array.shape});
  }
  SafetensorsWriter writer(to / "adapter_model.safetensors", tensors);
  for (const auto& [name, array] : arrays) {
    writer.write(array.values);
  }
  writer.close();
}

inline std::vector<float> whole_a(PeftFolder& adapter, const HfFolder& base,
                                  const std::string& name) {
  const std::int64_t in = base.shape(name).value()[1];
  std::vector<float> a(static_cast<std::size_t>(adapter.rank(name) * in));
  adapter.read_a(name, {0, in}, a);
  return a;
}

inline std::vector<float> whole_b(PeftFolder& adapter, const HfFolder& base,
                                  const std::string& name) {
  const std::int64_t out = base.shape(name).value()[0];
  std::vector<float> b(static_cast<std::size_t>(out * adapter.rank(name)));
  adapter.read_b(name, {0, out}, b);
  return b;
}

/// scale B A of a weight.
inline std::vector<float> update_of(PeftFolder& adapter, const HfFolder& base,
                                    const std::string& name) {
  const std::vector<float> a = whole_a(adapter, base, name), b = whole_b(adapter, base, name);
  const Extents shape = base.shape(name).value();
  const auto rows = static_cast<std::size_t>(shape[0]),
             columns = static_cast<std::size_t>(shape[1]);
  const auto rank = static_cast<std::size_t>(adapter.rank(name));
  std::vector<float> update(rows * columns);
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < columns; ++j) {
      double sum = 0.0;
      for (std::size_t k = 0; k < rank; ++k) {
        sum += static_cast<double>(b[i * rank + k]) * static_cast<double>(a[k * columns + j]);
      }
      update[i * columns + j] = static_cast<float>(adapter.scale(name) * sum);
    }
  }
  return update;
}

inline const std::string kQuery = "base_model.model.model.layers.0.self_attn.q_proj.lora_";

/// Reads a changed copy of mixtral/attention, or of another adapter.
struct Changed {
  explicit Changed(const std::function<void(Json&, Arrays&)>& change,
                   const std::string& family = "mixtral", const std::string& name = "attention")
      : base(HfFolder::open(folder_of(family))) {
    copy_adapter(adapter_of(family, name), dir / "adapter", change);
  }
  PeftFolder open() const { return open_adapter(dir / "adapter", base); }
  std::string refusal() const {
    return message_of([&] { open(); }, Exit::kBadData);
  }
  TempDir dir;
  HfFolder base;
};

}  // namespace moesaic::hf
