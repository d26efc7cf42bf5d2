#pragma once

#include <cstdint>
#include <vector>

#include "comm/watchdog.h"
#include "data/corpora.h"
#include "engine/instance.h"
#include "record/scores_output.h"

namespace moesaic::infer {

struct ScoreJob {
  const config::Config& config;  // resolved
  engine::Instance& instance;
  data::Corpora& corpora;
  const record::ScoresOutput& output;
  const std::vector<std::int64_t>& shards;  // to score, ascending
  comm::Watchdog& watchdog;
  engine::Instance* reference = nullptr;  // to compare with; may be absent
};
struct ScoreResult {
  bool stopped = false;  // before all of these shards had their parts
  bool kept = false;     // stopped amid a shard, whose finished batches are kept
  std::int64_t new_parts = 0;
  std::int64_t documents = 0, without_targets = 0;  // of the shards that were looked at
};

/// Makes the missing parts, all ranks together on one shard after the other: batch j of a shard is
/// computed on replica j mod (dp x ep), and one rank writes the part. Ends early at a stop signal
/// or at run.max_wall; the finished batches of a shard are then kept. Collective over the mesh.
ScoreResult score_shards(const ScoreJob& job);

}  // namespace moesaic::infer
