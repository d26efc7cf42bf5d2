#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "hf/tensors.h"

// How adapter_config.json says which weights an adapter updates.
namespace moesaic::hf {

/// Whether PEFT adapts this weight as a parameter ("target_parameters"), rather than its module:
/// routers that are no linear modules, stacked experts, and dense layers and shared experts, whose
/// modules PEFT takes for experts in transformers 5.
bool is_parameter_target(const HfTensor& tensor, const Family& family);

/// Whether target_parameters must have what transformers 5 makes of this expert's weight, too. For
/// most families PEFT (0.21) finds that by itself, but it has forgotten one.
bool is_also_joined(const HfTensor& tensor, const Family& family);

/// target_modules for the weights `names` of a model that are no parameter targets: the sorted last
/// names of their modules where these say it all, else a regular expression. It holds for modules
/// of transformers 4, and for those that PEFT looks for in transformers 5.
Json target_modules(const std::vector<HfTensor>& tensors, const std::set<std::string>& names,
                    const Family& family);

/// target_parameters for those that are; null if there are none.
Json target_parameters(const std::vector<HfTensor>& tensors, const std::set<std::string>& names,
                       const Family& family);

}  // namespace moesaic::hf
