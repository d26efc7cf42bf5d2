#include "model/parameter/roles.h"

#include <fnmatch.h>

#include <algorithm>

#include "config/value.h"
#include "model/parameter/public_tensor.h"

namespace moesaic::model {
namespace {

bool any_matches(const std::vector<NamePattern>& patterns, std::string_view name) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const NamePattern& pattern) { return pattern.matches(name); });
}

}  // namespace

NamePattern::NamePattern(std::string text, std::int64_t layers, bool tied)
    : text_(std::move(text)) {
  if (text_ == "all") {
    glob_ = "*";
  } else if (text_ == "head") {
    glob_ = tied ? kEmbeddingName : kHeadName;
  } else if (text_ == "router") {
    glob_ = "*.mlp.gate.*";
  } else if (text_ == "adapter") {
    glob_ = "*.lora_[AB].weight";
  } else if (const auto last = config::last_blocks(text_)) {
    first_layer_ = std::max<std::int64_t>(0, layers - *last);
  } else {
    glob_ = text_;
  }
}

bool NamePattern::matches(std::string_view name) const {
  return first_layer_ >= 0 ? layer_of(name) >= first_layer_
                           : ::fnmatch(glob_.c_str(), std::string(name).c_str(), 0) == 0;
}

Roles Roles::none() {
  Roles roles;
  roles.all_ = false;
  roles.freezes_ = true;
  return roles;
}

void Roles::set_trained(std::vector<NamePattern> trained, std::vector<NamePattern> excluded) {
  all_ = trained.empty();
  trained_ = std::move(trained);
  excluded_ = std::move(excluded);
}

void Roles::set_lr_scales(std::vector<std::pair<NamePattern, double>> scales) {
  scales_ = std::move(scales);
}

bool Roles::trains(std::string_view name) const {
  return (all_ || any_matches(trained_, name)) && !any_matches(excluded_, name);
}

double Roles::lr_scale(std::string_view name) const {
  double scale = 1.0;
  for (const auto& [pattern, factor] : scales_) {
    scale = pattern.matches(name) ? factor : scale;
  }
  return scale;
}

}  // namespace moesaic::model
