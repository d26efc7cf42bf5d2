#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/config.h"

namespace moesaic::config {

/// Fills in the defaults that depend on other keys: head sizes, widths, decay_steps, the paths that
/// run.dir sets, score.window and score.stride. What cannot be derived stays 0. Idempotent.
void resolve(Config& config, const std::string& job);

/// Everything that makes the job impossible on so many ranks, one line each that begins with a key;
/// empty: it can start. Wants a resolved config. For "plan" it judges plan.job on plan.ranks.
std::vector<std::string> problems(const Config& config, const std::string& job, int ranks);

/// Steps until train.steps, train.tokens or train.epochs is reached; 0 if none is set, or epochs
/// alone and their samples are not counted yet.
std::int64_t total_steps(const Config& config);
/// Once the corpora are known: how many samples an epoch has, and what follows from the run's
/// length.
void set_epoch(Config& config, std::int64_t samples);

/// What score.stride = 0 stands for.
std::int64_t default_stride(const Config& config);

/// The same paths as resolve derives from run.dir, empty without run.dir.
struct RunPaths {
  std::string trace, checkpoints, scores, generations;
};
RunPaths run_paths(const std::string& run_dir);

/// The parts of score.shards.
struct ShardRange {
  std::int64_t first = 0, every = 1;
};
/// Throws kUsage if text is neither empty nor I/N with 0 <= I < N.
ShardRange parse_shards(const std::string& text);

}  // namespace moesaic::config
