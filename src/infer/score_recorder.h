#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/timer.h"
#include "infer/score_corpora.h"
#include "io/trace.h"
#include "model/instance.h"

namespace moesaic::infer {

/// What a round of batches, one on each rank, came to: of this rank, then of all.
struct RoundSums {
  double nats = 0.0;  // -log p of the targets
  double tokens = 0.0, targets = 0.0;
  std::vector<double> task_tokens;
};

/// Turns rounds into rows of the trace and lines of progress. Rank 0 writes.
class ScoreRecorder {
 public:
  /// Collective over the mesh. last_step: the trace is cut to this round and continued; 0: new.
  ScoreRecorder(const config::Config& config, model::Instance& instance,
                const ScoreCorpora& corpora, std::int64_t last_step, double all_tokens);

  /// Collective over the mesh. sums, stats: of all ranks; waited: seconds that this rank has spent
  /// in the round's control messages.
  void add(const RoundSums& sums, model::MoeStats& stats, double waited, std::int64_t shard);
  void event(const std::string& kind, const std::string& message);
  /// Collective over the mesh: what is kept is on disk, before a part of these rounds is visible.
  void flush();
  void close();  // likewise, and the end

  std::int64_t step() const { return step_; }
  double longest_round() const { return longest_round_; }

 private:
  void show(double seconds, double tokens, std::int64_t shard, bool first);

  const config::Config& config_;
  model::Instance& instance_;
  std::optional<io::TraceWriter> trace_;  // on rank 0
  std::int64_t step_, shards_;
  double all_tokens_, done_tokens_ = 0.0;
  double comm_seconds_ = 0.0;                        // in collectives, up to the last row
  double longest_round_ = 0.0, smooth_speed_ = 0.0;  // s, tokens/s
  Timer since_line_;
};

}  // namespace moesaic::infer
