#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/config.h"
#include "data/corpora.h"
#include "files/run_lock.h"

namespace moesaic::cli {

/// What a training run writes to; on rank 0. First it is claimed, so that no other job changes what
/// is there; when all has been checked, it is begun.
class TrainOutputs {
 public:
  /// Locks run.dir, checkpoint.dir and the trace, and finishes what a killed save left half done.
  /// kCannotCreate.
  void claim(const config::Config& config);
  /// Throws if the run does not fit, or would leave behind the checkpoint that it begins with.
  /// last: the last step of which checkpoints count: a run that begins anew (-1), or at one that it
  /// names, leaves those of later steps behind.
  static void check(const config::Config& config, int ranks, const data::Corpora& corpora,
                    std::int64_t last);
  /// From now on the run's files are changed.
  static void begin(const config::Config& config, std::int64_t last);

 private:
  std::vector<files::RunLock> locks_;
};

}  // namespace moesaic::cli
