#pragma once

#include <string>

#include "checkpoint/catalog.h"
#include "config/options.h"

namespace moesaic::cli {

/// The model that score.reference names.
struct Reference {
  config::Config config;  // resolved; model.path, run.precision and run.quantize are its own
  std::string text;       // path, step and precision
};

/// parsed: the command; config: what it came to, with its expert pool. Throws kUsage where the
/// reference has another shape or other tasks than the model, or is quantized itself where it
/// cannot be.
Reference open_reference(const config::Parsed& parsed, const config::Config& config, int ranks,
                         checkpoint::Catalog& catalog);

}  // namespace moesaic::cli
