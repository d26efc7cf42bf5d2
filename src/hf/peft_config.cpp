#include "hf/peft_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "files/strict_json.h"
#include "hf/fields.h"

namespace moesaic::hf {
namespace {

constexpr int kMostDepth = 8;
constexpr std::int64_t kMostRank = 1 << 20;

// Fields that change what the adapter computes, or what it consists of.
constexpr std::array<std::pair<const char*, const char*>, 14> kRefused{{
    {"use_dora", "is DoRA: merge it in PEFT"},
    {"use_qalora", "is QA-LoRA: merge it in PEFT"},
    {"use_bdlora", "is a block-diagonal LoRA: merge it in PEFT"},
    {"lora_bias", "has biases of its own: merge it in PEFT"},
    {"fan_in_fan_out", "is for weights that are stored transposed, which no family has"},
    {"modules_to_save", "has whole modules: merge it in PEFT"},
    {"trainable_token_indices", "has rows of the embedding: merge it in PEFT"},
    {"layer_replication", "repeats layers, which makes another model"},
    {"megatron_config", "is for a model of Megatron"},
    {"alora_invocation_tokens", "is active from some token on only"},
    {"arrow_config", "mixes adapters by token"},
    {"kasa_config", "changes the base weights: merge it in PEFT"},
    {"monteclora_config", "draws its weights at random"},
    {"velora_config", "changes the gradients: it cannot be trained further here"},
}};

/// Whether a value says nothing.
bool is_neutral(const Json& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) ||
         (value.is_string() && value.string().empty()) ||
         ((value.is_array() || value.is_object()) && value.empty());
}

Json parse_object(const std::string& text, const std::string& where) {
  const Json all = files::parse_strict_json(text, kMostDepth, where + ": the file");
  if (!all.is_object()) {
    throw Error(Exit::kBadData, where + ": is not a JSON object");
  }
  Json object = Json::object();
  for (const auto& [name, value] : all.items()) {
    if (!is_neutral(value) || name == "r" || name == "lora_alpha") {
      object[name] = value;
    }
  }
  return object;
}

/// The keys of an object in the order of the text, in which PEFT tries them.
std::vector<std::string> in_order(const Json& object, const std::string& name,
                                  const std::string& text) {
  const std::size_t begin = text.find('"' + name + '"');
  std::vector<std::pair<std::size_t, std::string>> places;
  for (const auto& [key, value] : object.items()) {
    places.emplace_back(text.find(Json(key).dump(), begin), key);
  }
  std::stable_sort(places.begin(), places.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> keys;
  keys.reserve(places.size());
  for (auto& [place, key] : places) {
    keys.push_back(std::move(key));
  }
  return keys;
}

std::vector<PeftConfig::Pattern> read_patterns(HfFields& fields, const std::string& name,
                                               const std::string& text, bool whole) {
  std::vector<PeftConfig::Pattern> patterns;
  const Json object = fields.object(name);
  if (object.is_null()) {
    return patterns;
  }
  for (const std::string& key : in_order(object, name, text)) {
    const Json& value = object[key];
    const bool good =
        whole ? value.is_integer_in(1, kMostRank) : value.is_number() && value.get<double>() >= 0.0;
    if (!good) {
      fields.problem(name, fmt::format("has no {} for {}", whole ? "rank" : "number", key));
      continue;
    }
    try {
      patterns.push_back({std::regex("(.*\\.)?(" + key + ")"), value.get<double>()});
    } catch (const std::regex_error&) {
      fields.problem(name, fmt::format("has the key {}, which is not understood: use letters, "
                                       "digits, '.', '\\.', '\\d', '*', '+', '?', (..|..) and [..]",
                                       key));
    }
  }
  return patterns;
}

/// Some ways to begin also take something away from the base weights whenever PEFT loads them.
void check_begin(const Json& object, HfFields& fields) {
  constexpr const char* kName = "init_lora_weights";
  fields.ignore({kName});
  if (!fields.has(kName) || object[kName].is_boolean()) {
    return;
  }
  const std::string begin = fields.text(kName, "");
  constexpr std::array kHarmless{"gaussian", "eva", "orthogonal", "default"};
  if (std::find(kHarmless.begin(), kHarmless.end(), begin) == kHarmless.end()) {
    fields.problem(kName,
                   "changes the base weights: save the adapter with PEFT's "
                   "path_initial_model_for_weight_conversion");
  }
}

/// version: "0.18.1" or "0.20.1.dev0".
bool is_before_0_19(const std::string& version) {
  int major = 0, minor = 0;
  return std::sscanf(version.c_str(), "%d.%d", &major, &minor) == 2 && major == 0 && minor < 19;
}

const PeftConfig::Pattern* first_match(const std::vector<PeftConfig::Pattern>& patterns,
                                       const std::string& key) {
  const auto found = std::find_if(
      patterns.begin(), patterns.end(),
      [&](const PeftConfig::Pattern& pattern) { return std::regex_match(key, pattern.names); });
  return found == patterns.end() ? nullptr : &*found;
}

}  // namespace

std::int64_t PeftConfig::rank_of(const std::string& key) const {
  const Pattern* const found = first_match(ranks, key);
  return found == nullptr ? rank : static_cast<std::int64_t>(found->value);
}

double PeftConfig::alpha_of(const std::string& key) const {
  const Pattern* const found = first_match(alphas, key);
  return found == nullptr ? alpha : found->value;
}

bool PeftConfig::targets(const std::string& parameter) const {
  return std::any_of(target_parameters.begin(), target_parameters.end(),
                     [&](const std::string& target) {
                       return parameter == target || parameter.ends_with("." + target);
                     });
}

PeftConfig parse_peft_config(const std::string& text, const std::string& where) {
  const Json object = parse_object(text, where);
  HfFields fields(object, "LoRA adapters");
  PeftConfig config;
  const std::string type = fields.text("peft_type", "");
  if (type != "LORA") {
    fields.problem("peft_type", fields.has("peft_type") ? "is not supported: only LORA is"
                                                        : "is missing: only LORA is supported");
  }
  for (const auto& [name, why] : kRefused) {
    fields.ignore({name});
    if (fields.has(name)) {
      fields.problem(name, why);
    }
  }
  fields.must_be("bias", "none");
  check_begin(object, fields);
  config.base_name = fields.text("base_model_name_or_path", "");
  config.rank = fields.count("r", config.rank, 1, kMostRank);
  config.alpha = fields.number("lora_alpha", config.alpha);
  config.dropout = fields.number("lora_dropout", 0.0);
  config.rslora = fields.flag("use_rslora", false);
  config.ranks = read_patterns(fields, "rank_pattern", text, true);
  config.alphas = read_patterns(fields, "alpha_pattern", text, false);
  config.target_parameters = fields.texts("target_parameters");
  config.before_0_19 = is_before_0_19(fields.text("peft_version", "0.0"));
  // Which modules are adapted, the tensors say. The others are about training or loading.
  fields.ignore({"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
                 "inference_mode", "task_type", "revision", "auto_mapping", "loftq_config",
                 "eva_config", "corda_config", "lora_ga_config", "megatron_core",
                 "qalora_group_size", "runtime_config", "ensure_weight_tying"});
  const std::vector<std::string> problems = fields.problems();
  if (!problems.empty()) {
    throw Error(Exit::kBadData,
                fmt::format("{}: this adapter cannot be used as it is described:\n  {}", where,
                            join(problems, "\n  ")));
  }
  return config;
}

}  // namespace moesaic::hf
