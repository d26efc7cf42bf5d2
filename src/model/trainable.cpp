#include "model/trainable.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/text.h"
#include "model/transformer.h"

namespace moesaic::model {
namespace {

// A tensor of the whole model that training may change.
struct Name {
  std::string text;
  std::int64_t part;  // as Roles::lowest_part
};

struct Names {
  std::vector<Name> all;
  std::vector<Name> adaptable;     // weights that may have an adapter
  std::vector<std::string> state;  // counts of the router
};

Names names_of(const config::Config& config, const routing::GateState& gates,
               const AdapterRules& adapters) {
  Parameters parameters({.roles = {}, .adapters = adapters});  // of one rank, without memory
  const Transformer whole(parameters, config.model, config.router, Placement{}, gates);
  Names names;
  for (const Parameter& p : parameters.all()) {
    for (const PublicTensor& tensor : p.spec.tensors) {
      if (p.spec.state) {
        names.state.push_back(tensor.name);
      } else {
        names.all.push_back({tensor.name, p.part + (tensor.name == kHeadName ? 1 : 0)});
        if (p.spec.adaptable) {
          names.adaptable.push_back(names.all.back());
        }
      }
    }
  }
  return names;
}

// The tensor that a pattern without a match was perhaps meant for: of all names the one with the
// run of parts that is nearest to what is between the stars.
std::string nearest(const std::string& pattern, const std::vector<Name>& names) {
  std::string wanted = pattern;
  std::erase(wanted, '*');
  wanted = wanted.substr(std::min(wanted.find_first_not_of('.'), wanted.size()));
  wanted.erase(wanted.find_last_not_of('.') + 1);
  const std::size_t parts = split(wanted, '.').size();
  std::string best;
  std::size_t least = 0;
  for (const Name& name : names) {
    const std::vector<std::string> all = split(name.text, '.');
    for (std::size_t first = 0; first + parts <= all.size(); ++first) {
      const auto begin = all.begin() + static_cast<std::ptrdiff_t>(first);
      const std::vector<std::string> run(begin, begin + static_cast<std::ptrdiff_t>(parts));
      const std::size_t found = edit_distance(wanted, join(run, "."));
      if (best.empty() || found < least) {
        best = name.text;
        least = found;
      }
    }
  }
  return best;
}

void check_matches(const NamePattern& pattern, const char* key, const Names& names) {
  if (std::any_of(names.all.begin(), names.all.end(),
                  [&](const Name& name) { return pattern.matches(name.text); })) {
    return;
  }
  if (std::any_of(names.state.begin(), names.state.end(),
                  [&](const std::string& name) { return pattern.matches(name); })) {
    throw Error(Exit::kUsage,
                fmt::format("{}: {} matches only counts of the router, which follow the gate: name "
                            "`router`",
                            key, pattern.text()));
  }
  throw Error(Exit::kUsage, fmt::format("{}: {} matches no tensor of this model; the nearest is {}",
                                        key, pattern.text(), nearest(pattern.text(), names.all)));
}

void check_targets(const std::vector<std::string>& targets, const Names& names) {
  for (const std::string& target : targets) {
    if (std::none_of(names.adaptable.begin(), names.adaptable.end(),
                     [&](const Name& name) { return AdapterRules::means(target, name.text); })) {
      throw Error(Exit::kUsage,
                  fmt::format("adapter.targets: {} is no product that can have an adapter; the "
                              "nearest is {}",
                              target, nearest(target, names.adaptable)));
    }
  }
}

}  // namespace

Tuning tuning_of(const config::Config& config, const routing::GateState& gates) {
  const config::Train& train = config.train;
  Tuning tuning{.roles = {}, .adapters = AdapterRules(config.adapter)};
  Roles& roles = tuning.roles;
  const bool adapts = config.adapter.rank > 0;
  const bool has_patterns = !train.trainable.empty() || !train.lr_scale.empty();
  if (!adapts && !has_patterns) {
    return tuning;
  }
  const Names names = names_of(config, gates, tuning.adapters);
  if (adapts) {
    check_targets(config.adapter.targets, names);
  }
  if (!has_patterns) {
    return tuning;
  }
  const auto pattern_of = [&](const std::string& text, const char* key) {
    NamePattern pattern(text, config.model.layers, config.model.tie_embeddings);
    check_matches(pattern, key, names);
    return pattern;
  };
  std::vector<NamePattern> trained, excluded;
  for (const std::string& text : train.trainable) {
    if (text.starts_with('!')) {
      excluded.push_back(pattern_of(text.substr(1), "train.trainable"));
    } else {
      trained.push_back(pattern_of(text, "train.trainable"));
    }
  }
  std::vector<std::pair<NamePattern, double>> scales;
  for (const auto& [text, factor] : train.lr_scale) {
    scales.emplace_back(pattern_of(text, "train.lr_scale"), factor);
  }
  roles.set_trained(std::move(trained), std::move(excluded));
  roles.set_lr_scales(std::move(scales));
  std::optional<std::int64_t> lowest;
  bool freezes = false;
  for (const Name& name : names.all) {
    if (roles.trains(name.text)) {
      lowest = std::min(lowest.value_or(name.part), name.part);
    } else if (is_of_adapter(name.text)) {
      throw Error(Exit::kUsage,
                  fmt::format("train.trainable freezes {}: a part of an adapter cannot be frozen, "
                              "name `adapter`",
                              name.text));
    } else {
      freezes = true;
    }
  }
  if (!lowest) {
    throw Error(Exit::kUsage,
                "train.trainable = " + join(train.trainable, ",") + ": nothing is left to train");
  }
  roles.set_lowest_part(*lowest);
  roles.set_freezes(freezes);
  return tuning;
}

}  // namespace moesaic::model
