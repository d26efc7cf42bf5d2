#pragma once

#include <string>

#include "base/pace.h"
#include "model/job_trace.h"
#include "train/resume.h"
#include "train/stepper.h"

namespace moesaic::train {

/// Turns steps into rows of the trace and lines of progress.
class Recorder {
 public:
  Recorder(const config::Config& config, model::Instance& instance, const Progress& progress,
           const std::vector<std::string>& corpora, bool resumed, std::int64_t last_step);

  /// Collective over the mesh. stats: summed over ranks.
  void add(const StepResult& result, model::MoeStats& stats,
           const std::vector<double>& task_tokens);
  void add(const io::EvalRow& row);
  void event(std::int64_t step, const std::string& kind, const std::string& message) {
    trace_.event(step, kind, message);
  }
  /// What is kept is on disk: before a checkpoint of this step becomes visible.
  void flush() { trace_.flush(); }
  void close() { trace_.close(); }  // collective over the mesh

 private:
  void show(const StepResult& result, double seconds);

  model::JobTrace trace_;
  std::int64_t first_step_, last_step_;
  Pace pace_;
};

}  // namespace moesaic::train
