#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "comm/watchdog.h"
#include "config/config.h"
#include "config/pool_request.h"
#include "data/corpora.h"
#include "data/task_index.h"
#include "engine/instance.h"
#include "train/resume.h"
#include "train/save_policy.h"

namespace moesaic::train {

/// What a run starts from; all set-up is done and agreed.
struct Start {
  const config::Config& config;  // resolved
  engine::Instance& instance;
  data::Corpora& corpora;
  data::TaskIndex& task_index;  // of the corpora; empty without data.task_weights
  data::Corpora& eval_corpora;  // may be empty
  const RunData& data;          // of the corpora
  Progress progress;            // step 0: a fresh start
  std::optional<std::filesystem::path> checkpoint;   // that the progress is from
  std::map<std::string, std::string> sidecars = {};  // sidecar files of each checkpoint; on rank 0
  std::int64_t rollbacks = 0;                        // that are still allowed
  std::function<void()> on_opened = {};  // collective; once trace and routing record are open
  // They outlive a rollback.
  SavePolicy& policy;
  comm::Watchdog& watchdog;
};

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

/// Trains until train.steps or train.tokens, a stop signal or run.max_wall. Collective over the
/// mesh; every rank gets the same outcome: kDone, kStopped (a checkpoint was saved), kTerminated
/// (none was), a rollback or a change of experts. Throws an AgreedError kBadNumbers if a loss or
/// gradient is not finite twice, or if ranks differ that should hold the same parameters.
Outcome run(const Start& start);

}  // namespace moesaic::train
