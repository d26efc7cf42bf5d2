#pragma once

#include <string>
#include <utility>
#include <vector>

#include "config/config.h"

namespace moesaic::config {

/// Every key and its value as in a config file, in the order of the table.
using Flat = std::vector<std::pair<std::string, std::string>>;
Flat flatten(const Config& config);
/// The inverse. Keys that this version does not know are ignored.
Config unflatten(const Flat& flat);

/// Every key, by section, usable with --config. Paths and lengths that resolve derived (from
/// run.dir, train.steps, model.max_seq) stand there as comments, so that they follow when those
/// change.
std::string to_cfg(const Config& config);

struct Difference {
  std::string key, was, is;
};
/// Keys with different values. A decay_steps that follows the length of the run on both sides is no
/// difference.
std::vector<Difference> differences(const Config& was, const Config& is);

/// Whether a training run may be continued with another value of the key: it does not change what
/// is computed, or is only how long.
bool may_change_on_resume(const std::string& key);

}  // namespace moesaic::config
