#include "model/parameter/adapter_rules.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>

namespace moesaic::model {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kLoraA = ".lora_A.weight", kLoraB = ".lora_B.weight";

std::string_view without_weight(std::string_view name) {
  return name.ends_with(kWeight) ? name.substr(0, name.size() - kWeight.size()) : name;
}

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

}  // namespace

AdapterRules::AdapterRules(const config::Adapter& adapter)
    : rank_(adapter.rank),
      seed_(adapter.seed),
      scale_(adapter_scale(adapter)),
      targets_(adapter.targets) {}

bool AdapterRules::has(std::string_view name) const {
  return rank_ > 0 && std::any_of(targets_.begin(), targets_.end(),
                                  [&](const std::string& target) { return means(target, name); });
}

bool AdapterRules::means(const std::string& target, std::string_view name) {
  const std::string_view module = without_weight(name);
  if (target == "all-linear") {
    return !module.ends_with(".mlp.gate");
  }
  if (target == "experts" || target == "shared_experts") {
    return contains(module, ".mlp." + target + ".");
  }
  if (target.find_first_of("*?[") != std::string::npos) {
    return ::fnmatch(target.c_str(), std::string(module).c_str(), 0) == 0 ||
           ::fnmatch(target.c_str(), std::string(name).c_str(), 0) == 0;
  }
  return module == target || module.ends_with("." + target);
}

std::string lora_a_name(std::string_view weight) {
  return std::string(without_weight(weight)) + std::string(kLoraA);
}
std::string lora_b_name(std::string_view weight) {
  return std::string(without_weight(weight)) + std::string(kLoraB);
}

bool is_of_adapter(std::string_view name) {
  return name.ends_with(kLoraA) || name.ends_with(kLoraB);
}

std::string adapted_weight(std::string_view name) {
  return is_of_adapter(name)
             ? std::string(name.substr(0, name.size() - kLoraA.size())) + std::string(kWeight)
             : "";
}

double adapter_alpha(const config::Adapter& adapter) {
  return adapter.alpha > 0.0 ? adapter.alpha
                             : 2.0 * static_cast<double>(std::max<std::int64_t>(1, adapter.rank));
}

double adapter_scale(const config::Adapter& adapter) {
  const auto rank = static_cast<double>(std::max<std::int64_t>(1, adapter.rank));
  return adapter_alpha(adapter) / (adapter.rslora ? std::sqrt(rank) : rank);
}

}  // namespace moesaic::model
