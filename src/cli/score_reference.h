#pragma once

#include <string>

#include "checkpoint/catalog.h"
#include "config/options.h"
#include "routing/gate_state.h"

namespace moesaic::cli {

/// The model that score.reference names.
struct Reference {
  config::Config config;  // resolved; model.path, run.precision and run.quantize are its own
  routing::GateState gates;
  std::string text;  // path, step and precision
};

/// parsed: the command; config and gates: what it came to. Throws kUsage where the
/// reference has another shape or other tasks than the model, or is quantized itself where it
/// cannot be.
Reference open_reference(const config::Parsed& parsed, const config::Config& config,
                         const routing::GateState& gates, int ranks, checkpoint::Catalog& catalog);

}  // namespace moesaic::cli
