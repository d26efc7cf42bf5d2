#include "model/parameter/roles.h"

#include <fnmatch.h>

#include <algorithm>
#include <charconv>

namespace moesaic::model {
namespace {

constexpr std::string_view kLast = "last:";
constexpr std::string_view kBlocks = "model.layers.";

bool any_matches(const std::vector<NamePattern>& patterns, std::string_view name) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const NamePattern& pattern) { return pattern.matches(name); });
}

}  // namespace

NamePattern::NamePattern(std::string text, std::int64_t layers, bool tied)
    : text_(std::move(text)) {
  if (text_ == "all") {
    globs_ = {"*"};
  } else if (text_ == "head") {
    globs_ = {tied ? "model.embed_tokens.weight" : "lm_head.weight"};
  } else if (text_ == "router") {
    globs_ = {"*.mlp.gate.*"};
  } else if (text_ == "adapter") {
    globs_ = {"*.lora_[AB].weight"};
  } else if (text_.starts_with(kLast)) {
    std::int64_t count = 0;
    std::from_chars(text_.data() + kLast.size(), text_.data() + text_.size(), count);
    first_layer_ = std::max<std::int64_t>(0, layers - count);
  } else {
    globs_ = {text_};
  }
}

bool NamePattern::matches(std::string_view name) const {
  if (first_layer_ >= 0) {
    std::int64_t layer = -1;
    if (name.starts_with(kBlocks)) {
      std::from_chars(name.data() + kBlocks.size(), name.data() + name.size(), layer);
    }
    return layer >= first_layer_;
  }
  const std::string terminated(name);
  return std::any_of(globs_.begin(), globs_.end(), [&](const std::string& glob) {
    return ::fnmatch(glob.c_str(), terminated.c_str(), 0) == 0;
  });
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
