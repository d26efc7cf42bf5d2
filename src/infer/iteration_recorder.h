#pragma once

#include <string>
#include <vector>

#include "base/pace.h"
#include "data/corpora.h"
#include "record/job_trace.h"

namespace moesaic::infer {

/// Sums of one iteration, which has a batch on each rank: of this rank, then of all.
struct IterationSums {
  double nats = 0.0;  // -log p of the targets
  double tokens = 0.0, targets = 0.0;
  double work = 0.0;  // of all that the job has to do, in tokens
  std::vector<double> task_tokens;
};

/// Turns iterations into rows of the trace and lines of progress.
class IterationRecorder {
 public:
  /// Collective over the mesh. last_step: the trace is cut to this iteration and continued; 0: new.
  /// all_work: the sum of the iterations to come.
  IterationRecorder(const config::Config& config, engine::Instance& instance,
                    const data::Corpora& corpora, std::int64_t last_step, double all_work);

  /// Collective over the mesh. sums, stats: of all ranks. where: for the line of progress.
  void add(const IterationSums& sums, model::MoeStats& stats, const std::string& where);
  void event(const std::string& kind, const std::string& message) {
    trace_.event(step_, kind, message);
  }
  /// What is kept is on disk, before a part of these iterations is visible.
  void flush() { trace_.flush(); }
  void close() { trace_.close(); }  // writes what is kept; collective over the mesh
  /// On rank 0: rows could not be written, so that the job should end with what it has.
  bool failed() const { return trace_.failed(); }

  std::int64_t step() const { return step_; }
  double longest_iteration() const { return longest_iteration_; }

 private:
  void show(double seconds, const IterationSums& sums, const std::string& where);

  record::JobTrace trace_;
  std::int64_t step_;
  double all_work_, done_work_ = 0.0;
  double longest_iteration_ = 0.0;  // seconds
  Pace tokens_, work_;
};

}  // namespace moesaic::infer
