#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "config/pool_request.h"
#include "train/save_policy.h"
#include "train/session.h"

namespace moesaic::train {

/// Where a run wants to start again, as it was spoiled.
struct Rollback {
  std::filesystem::path checkpoint;  // the newest
  std::int64_t cursor = 0;           // behind the samples of the bad step
  std::string reason;
};

/// Where a run wants to go on with other experts, as run.control says.
struct ExpertChange {
  std::filesystem::path checkpoint;  // of the step it stands at
  std::vector<config::PoolRequest> requests;
  std::string control;  // which file it was (ControlFile)
};

struct Outcome {
  Exit exit = Exit::kDone;
  // Instead of an end.
  std::optional<Rollback> rollback = std::nullopt;
  std::optional<ExpertChange> experts = std::nullopt;
};

/// Trains from the session's origin, which its instance holds, until the end of train.steps,
/// train.tokens or train.epochs, a stop signal or run.max_wall. rollbacks: how many are still
/// allowed. Collective over the mesh; every rank gets the same outcome: kDone, kStopped (a
/// checkpoint was saved), kTerminated (none was), a rollback or a change of experts. Throws an
/// AgreedError kBadNumbers if a loss or gradient is not finite twice, or if ranks differ that
/// should hold the same parameters.
Outcome run_loop(Session& session, SavePolicy& policy, std::int64_t rollbacks);

}  // namespace moesaic::train
