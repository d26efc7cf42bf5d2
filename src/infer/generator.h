#pragma once

#include <cstdint>

#include "comm/watchdog.h"
#include "data/prompts.h"
#include "engine/instance.h"
#include "infer/scheduler.h"
#include "record/generations_output.h"

namespace moesaic::infer {

struct GenerateJob {
  const config::Config& config;  // resolved
  engine::Instance& instance;
  data::Corpora& corpora;
  data::Prompts& prompts;
  const GenerateRules& rules;
  const record::GenerationsOutput& output;
  comm::Watchdog& watchdog;
};
struct GenerateResult {
  bool stopped = false;  // before all parts were there
  std::int64_t new_parts = 0;
};

/// Makes the missing parts: part number m of these goes to replica m mod (dp x ep), which computes
/// the prompts of its parts one after the other and writes a part when its last continuation has
/// ended. All replicas compute in iterations, since experts may lie on any of them; one without
/// work has an empty micro-batch. Routing is without a limit, so a continuation does not depend on
/// what is computed beside it. Stops after an iteration on a signal or when time runs out.
/// Collective over the mesh.
GenerateResult generate(const GenerateJob& job);

}  // namespace moesaic::infer
