#pragma once

#include <string>
#include <vector>

#include "config/config.h"
#include "hf/safetensors/stored_dtype.h"

// config.json of a Hugging Face folder, and the sections of our config that say the same.
namespace moesaic {
class Json;
}

namespace moesaic::hf {

struct Family;

struct HfConfig {
  const Family* family = nullptr;
  config::Model model;    // resolved
  config::Router router;  // keys that only training reads are at their defaults, but aux_loss (0)
                          // and, where it is said, aux_scope
  bool has_fp8 = false;   // weights may be e4m3 with scales of blocks
  bool has_extra_layers = false;  // modules for multi-token prediction, behind the last layer
  /// What config.json says about training and is not used, for the user to read.
  std::vector<std::string> notes;
};

/// The text of a config.json; `where` names it in errors. kBadData that lists every key which is
/// not known, not supported or not sensible.
HfConfig parse_hf_config(const std::string& text, const std::string& where);

/// The first family that can express this model. kUsage that names the keys which no family has.
const Family& family_for(const config::Model& model, const config::Router& router);
/// config.json of that family, in the spelling that all versions of transformers read.
Json hf_config_of(const Family& family, const config::Model& model, const config::Router& router,
                  DType type);

/// Brings a model to the one form of all that compute the same: defaults are resolved, what has no
/// effect is at its default, and so is what only training uses.
void canonicalise(config::Model& model, config::Router& router);

}  // namespace moesaic::hf
