#pragma once

#include <filesystem>
#include <optional>

#include "comm/watchdog.h"
#include "config/config.h"
#include "model/instance.h"
#include "train/corpora.h"
#include "train/resume.h"
#include "train/task_index.h"

namespace moesaic::train {

/// What a run starts from; all set-up is done and agreed.
struct Start {
  const config::Config& config;  // resolved
  model::Instance& instance;
  Corpora& corpora;
  TaskIndex& task_index;  // of the corpora; empty without data.task_weights
  Corpora& eval_corpora;  // may be empty
  Progress progress;      // step 0: a fresh start
  bool resumed = false;
  comm::Watchdog& watchdog;
};

/// Trains until train.steps or train.tokens, a stop signal or run.max_wall. Collective over the
/// mesh. Returns kDone, kStopped (a checkpoint was saved) or kTerminated (none was). Throws an
/// AgreedError kBadNumbers at the first loss or gradient that is not finite.
Exit run(const Start& start);

}  // namespace moesaic::train
