#include "hf/peft_targets.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/text.h"
#include "hf/family.h"
#include "hf/peft_places.h"

namespace moesaic::hf {
namespace {

constexpr std::string_view kLayers = "model.layers.";
constexpr std::string_view kExperts = "experts.";
constexpr std::string_view kForgotten = "qwen2_moe";
constexpr std::string_view kRouter = ".mlp.gate.weight";

/// "3" and "self_attn.q_proj" of "model.layers.3.self_attn.q_proj".
struct InLayer {
  std::string layer, rest;
};
InLayer in_layer(std::string_view name) {
  const std::string_view behind = name.substr(kLayers.size());
  const std::size_t dot = behind.find('.');
  return {std::string(behind.substr(0, dot)), std::string(behind.substr(dot + 1))};
}

std::string escaped(const std::string& text) {
  std::string all;
  for (const char c : text) {
    all += c == '.' ? std::string("\\.") : std::string(1, c);
  }
  return all;
}

/// What stands behind "model.layers.N." in a regular expression for a module. transformers 5 has
/// renamed its first part in some families; PEFT tries names of experts without a number there.
std::string rest_pattern(const HfTensor& tensor) {
  const std::string rest = in_layer(module_of(tensor.view.tensor)).rest;
  const std::string first = rest.substr(0, rest.find('.'));
  const std::string ours = in_layer(tensor.name).rest;
  const std::string ours_first = ours.substr(0, ours.find('.'));
  std::string pattern = first == ours_first ? first : fmt::format("({}|{})", first, ours_first);
  std::string behind = rest.substr(first.size());
  if (!experts_of(tensor.name).empty()) {
    const std::size_t number = behind.find(kExperts) + kExperts.size();
    const std::size_t dot = behind.find('.', number);
    return pattern + escaped(behind.substr(0, number)) + "(\\d+\\.)?" +
           escaped(behind.substr(dot + 1));
  }
  return pattern + escaped(behind);
}

std::string last_name(const HfTensor& tensor) {
  const std::string_view module = module_of(tensor.view.tensor);
  return std::string(module.substr(module.rfind('.') + 1));
}

/// Layers of things that are adapted, and of all such things.
struct Layers {
  std::set<std::string> adapted, all;
};

std::string layers_pattern(const Layers& layers) {
  if (layers.adapted == layers.all) {
    return "\\d+";
  }
  const std::vector<std::string> adapted(layers.adapted.begin(), layers.adapted.end());
  return "(" + join(adapted, "|") + ")";
}

}  // namespace

bool is_parameter_target(const HfTensor& tensor, const Family& family) {
  if (tensor.name.ends_with(kRouter)) {
    return family.stacked != nullptr || family.name.starts_with("deepseek") ||
           family.name == kForgotten;
  }
  const std::string last = last_name(tensor);
  const bool is_ffn = last == "gate_proj" || last == "up_proj" || last == "down_proj";
  return tensor.stacked() || (is_ffn && experts_of(tensor.name).empty());
}

bool is_also_joined(const HfTensor& tensor, const Family& family) {
  return family.name == kForgotten && !experts_of(tensor.name).empty();
}

Json target_modules(const std::vector<HfTensor>& tensors, const std::set<std::string>& names,
                    const Family& family) {
  std::map<std::string, Layers> kinds;  // by pattern
  std::set<std::string> adapted, others;
  for (const HfTensor& tensor : tensors) {
    if (!may_be_adapted(tensor)) {
      continue;
    }
    if (is_parameter_target(tensor, family)) {  // never as a module, too
      others.insert(last_name(tensor));
      continue;
    }
    const bool has = names.contains(tensor.name);
    (has ? adapted : others).insert(last_name(tensor));
    Layers& layers = kinds[rest_pattern(tensor)];
    const std::string layer = in_layer(tensor.name).layer;
    layers.all.insert(layer);
    if (has) {
      layers.adapted.insert(layer);
    }
  }
  const bool is_clear = std::none_of(adapted.begin(), adapted.end(), [&](const std::string& name) {
    return others.contains(name);
  });
  if (is_clear) {
    return Json(std::vector<std::string>(adapted.begin(), adapted.end()));
  }
  std::vector<std::string> patterns;
  for (const auto& [pattern, layers] : kinds) {
    if (!layers.adapted.empty()) {
      patterns.push_back(fmt::format("model\\.layers\\.{}\\.{}", layers_pattern(layers), pattern));
    }
  }
  return Json(join(patterns, "|"));
}

Json target_parameters(const std::vector<HfTensor>& tensors, const std::set<std::string>& names,
                       const Family& family) {
  std::map<std::string, Layers> kinds;  // by the parameter's name in a layer
  for (const HfTensor& tensor : tensors) {
    const bool also_joined = is_also_joined(tensor, family);
    if (may_be_adapted(tensor) && (also_joined || is_parameter_target(tensor, family))) {
      const auto [layer, rest] =
          in_layer(also_joined ? joined_parameter(tensor) : tensor.view.tensor);
      kinds[rest].all.insert(layer);
      if (names.contains(tensor.name)) {
        kinds[rest].adapted.insert(layer);
      }
    }
  }
  Json targets = Json::array();
  for (const auto& [rest, layers] : kinds) {
    if (layers.adapted == layers.all) {
      targets.push_back(rest);
      continue;
    }
    for (const std::string& layer : layers.adapted) {
      targets.push_back(fmt::format("{}{}.{}", kLayers, layer, rest));
    }
  }
  return targets.empty() ? Json(nullptr) : targets;
}

}  // namespace moesaic::hf
