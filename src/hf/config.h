#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hf/safetensors/stored_type.h"

// config.json of a Hugging Face folder, and the keys of ours that say the same.
namespace moesaic {
class Json;
}

namespace moesaic::hf {

/// The public families of models, by what config.json calls "model_type".
enum class HfFamily {
  kMixtral,
  kQwen2Moe,
  kQwen3Moe,
  kOlmoe,
  kDeepseekV2,
  kDeepseekV3,
  kGptOss,
};
inline constexpr std::array<std::string_view, 7> kHfFamilyNames{
    "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3", "gpt_oss"};
std::string_view name_of(HfFamily family);

/// Our keys ("model.layers") and their values as a config file has them ("24").
using HfKeys = std::map<std::string, std::string>;

struct HfConfig {
  HfFamily family = HfFamily::kMixtral;
  /// Every key that says something about what a model computes, those at their defaults included.
  HfKeys keys;
  bool has_fp8 = false;           // weights may be e4m3 with scales of blocks
  bool has_extra_layers = false;  // modules for multi-token prediction, behind the last layer
  /// What config.json says about training and is not used, for the user to read.
  std::vector<std::string> notes;
};

/// The text of a config.json; `where` names it in errors. kBadData that lists every key which is
/// not known, not supported or not sensible.
HfConfig parse_hf_config(const std::string& text, const std::string& where);

/// The first family that can express a model with these keys (all of `model` and `router`, as
/// parse_hf_config gives them). kUsage that names the keys which no family has.
HfFamily family_for(const HfKeys& keys);
/// config.json of that family, in the spelling that all versions of transformers read.
Json hf_config_of(HfFamily family, const HfKeys& keys, StoredType type);

/// Values of keys; kInternal if one is missing or not of that kind.
std::int64_t integer_of(const HfKeys& keys, const std::string& key);
double number_of(const HfKeys& keys, const std::string& key);
std::vector<std::int64_t> integers_of(const HfKeys& keys, const std::string& key);  // "3,5"

}  // namespace moesaic::hf
