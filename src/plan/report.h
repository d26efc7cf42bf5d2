#pragma once

#include <cstdint>
#include <string>

#include "config/config.h"
#include "plan/memory.h"
#include "plan/model_size.h"
#include "plan/traffic.h"
#include "routing/gate_state.h"

namespace moesaic::plan {

/// What a job will take, of a resolved config.
struct Estimate {
  std::string job;  // train, score or generate
  ModelSize size;
  Layout layout;
  Memory memory;                  // bytes on one rank of the stage that needs most
  Traffic traffic;                // of one rank in one training step, same stage
  Flop flop;                      // for one token
  bool freezes = false;           // not everything is trained
  double checkpoint_bytes = 0.0;  // fp32 weights and moments, of all ranks together
  double quantized_bytes = 0.0;   // of one by convert.quantize = run.quantize; 0: that is none
  std::int64_t steps = 0;         // of the whole run
  double tokens = 0.0;            // of the whole run
  double bubble = 0.0;            // share of a step that a pipeline stage waits
  double step_seconds = 0.0;      // from plan.flops and plan.network; 0: not known
};
/// Plans config.plan.job on so many ranks; resolve sets plan.job for the jobs themselves.
/// gates: as the checkpoint has them that the job begins with, else empty.
Estimate estimate(const config::Config& config, int ranks, const routing::GateState& gates = {});

/// The table that `plan` prints and that training begins with; ends in a newline. corpus_tokens: 0
/// if unknown.
std::string report(const Estimate& estimate, const config::Config& config,
                   std::int64_t corpus_tokens = 0);

}  // namespace moesaic::plan
