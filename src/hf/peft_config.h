#pragma once

#include <cstdint>
#include <regex>
#include <string>
#include <vector>

// adapter_config.json of a PEFT folder.
namespace moesaic::hf {

inline constexpr const char* kPeftConfigName = "adapter_config.json";
inline constexpr const char* kPeftWeightsName = "adapter_model.safetensors";
inline constexpr const char* kPeftPrefix = "base_model.model.";  // of the tensors' names

struct PeftConfig {
  /// A key of rank_pattern or alpha_pattern.
  struct Pattern {
    std::regex names;  // of what it is for, in full
    double value = 0.0;
  };

  std::string base_name;  // base_model_name_or_path
  std::int64_t rank = 8;
  double alpha = 8.0;
  double dropout = 0.0;
  bool rslora = false;
  std::vector<Pattern> ranks, alphas;          // the first one that matches counts
  std::vector<std::string> target_parameters;  // what is adapted as a parameter, not as a module
  bool before_0_19 = false;                    // whether peft_version says so, or there is none

  /// The rank of a module or parameter of the base model:
  /// "model.layers.0.mlp.experts.gate_up_proj".
  std::int64_t rank_of(const std::string& key) const;
  double alpha_of(const std::string& key) const;
  /// Whether this is one of target_parameters: all of its name, or the end behind a dot.
  bool targets(const std::string& parameter) const;
};

/// The text of the file; `where` names it in errors. kBadData that lists every key that is not
/// known or not supported. What is null, false or empty is taken as absent.
PeftConfig parse_peft_config(const std::string& text, const std::string& where);

}  // namespace moesaic::hf
