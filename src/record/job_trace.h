#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/straggler.h"
#include "engine/instance.h"
#include "model/moe_stats.h"
#include "record/trace.h"

namespace moesaic::record {

/// The trace of a job over this mesh; rank 0 writes.
class JobTrace {
 public:
  /// Collective over the mesh. last_step: the trace is cut to this step and continued; without: a
  /// new one. The config must be resolved.
  JobTrace(const config::Config& config, engine::Instance& instance,
           const std::vector<std::string>& tasks, const std::vector<std::string>& corpora,
           std::optional<std::int64_t> last_step);

  /// Adds times, MoE columns and tokens of each task to a row, and keeps it if trace.every says so.
  /// summed, task_tokens: of all ranks. Collective over the mesh; every rank gets the row, but
  /// rank_seconds, which rank 0 has.
  void add(TraceRow& row, model::MoeStats& summed, const std::vector<double>& task_tokens);
  // These do nothing but on rank 0, and are not collective.
  void add(const EvalRow& row);
  void event(std::int64_t step, const std::string& kind, const std::string& message);
  void flush();  // what is kept is on disk
  /// Writes what is kept and closes the trace; collective over the mesh. Throws AgreedError if any
  /// write failed.
  void close();
  /// Whether rows could not be written: nothing more is, and the job should save its work and end.
  /// On rank 0, which is the only one to know.
  bool failed() const { return failure_.has_value(); }

 private:
  void attempt(const std::function<void(TraceWriter&)>& step);
  void fill_traffic(TraceRow& row);
  void note_straggler(const TraceRow& row);

  const config::Config& config_;
  engine::Instance& instance_;
  std::optional<TraceWriter> writer_;  // on rank 0
  std::optional<Error> failure_;
  // Up to the last row, of this rank.
  double waited_ = 0.0, waited_for_stages_ = 0.0;  // seconds, for other ranks
  std::vector<double> sent_;                       // bytes in each group
  std::vector<std::string> hosts_;                 // of each rank; on rank 0
  StragglerWatch stragglers_;
};

}  // namespace moesaic::record
