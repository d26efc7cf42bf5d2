#include "config/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "config/keys.h"
#include "config/validate.h"
#include "config/value.h"

namespace moesaic::config {
namespace {

bool decays_to_the_end(const Config& config) {
  return config.train.decay_steps == 0 || config.train.decay_steps == total_steps(config);
}

/// Whether resolve would find the key's value again from the others.
bool is_derived(const std::string& key, const Config& config) {
  if (key == "train.decay_steps") {
    return decays_to_the_end(config);
  }
  if (key == "parallel.expert_tp") {
    return config.parallel.expert_tp == config.parallel.tp;
  }
  if (key == "score.window") {
    return config.score.window == config.model.max_seq;
  }
  if (key == "score.stride") {
    return config.score.stride == default_stride(config);
  }
  const RunPaths paths = run_paths(config.run.dir);
  return !config.run.dir.empty() &&
         ((key == "trace.path" && config.trace.path == paths.trace) ||
          (key == "checkpoint.dir" && config.checkpoint.dir == paths.checkpoints) ||
          (key == "score.output" && config.score.output == paths.scores) ||
          (key == "generate.output" && config.generate.output == paths.generations));
}

}  // namespace

Flat flatten(const Config& config) {
  Flat flat;
  for (const Key& key : keys()) {
    flat.emplace_back(key.name, key.text(config));
  }
  return flat;
}

Config unflatten(const Flat& flat) {
  Config config;
  for (const auto& [name, text] : flat) {
    if (const Key* const key = find_key(name)) {
      key->set(config, parse_items(text));
    }
  }
  return config;
}

std::string to_cfg(const Config& config) {
  std::string text;
  std::string section;
  for (const Key& key : keys()) {
    if (key.section() != section) {
      text += fmt::format("{}[{}]\n", text.empty() ? "" : "\n", key.section());
      section = key.section();
    }
    const char* const comment = is_derived(key.name, config) ? "# " : "";
    text += fmt::format("{}{} = {}", comment, key.field(), key.text(config));
    text.erase(text.find_last_not_of(' ') + 1);
    text += '\n';
  }
  return text;
}

std::vector<Difference> differences(const Config& was, const Config& is) {
  std::vector<Difference> rows;
  for (const Key& key : keys()) {
    const std::string before = key.text(was);
    const std::string now = key.text(is);
    const bool follows =
        key.name == "train.decay_steps" && decays_to_the_end(was) && decays_to_the_end(is);
    if (before != now && !follows) {
      rows.push_back({key.name, before, now});
    }
  }
  return rows;
}

bool may_change_on_resume(const std::string& key) {
  constexpr std::array<std::string_view, 7> kFree = {
      "parallel.", "train.recompute", "run.", "trace.", "checkpoint.", "eval.", "plan."};
  for (const std::string_view section : kFree) {
    if (key.starts_with(section)) {
      return true;
    }
  }
  const Key* const known = find_key(key);
  const bool of_training = known != nullptr && known->read_by("train");
  constexpr std::array<std::string_view, 7> kFreeKeys = {
      "train.steps",     "train.tokens",     "train.epochs",     "train.spike",
      "train.rollbacks", "data.eval_corpus", "data.skip_samples"};
  return !of_training || std::find(kFreeKeys.begin(), kFreeKeys.end(), key) != kFreeKeys.end();
}

}  // namespace moesaic::config
