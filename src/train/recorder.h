#pragma once

#include <optional>
#include <string>

#include "base/timer.h"
#include "io/trace.h"
#include "model/instance.h"
#include "train/resume.h"

namespace moesaic::train {

/// One step as every rank knows it after the reductions.
struct StepResult {
  std::int64_t step = 0, tokens = 0, targets = 0;
  double loss = 0, lm_loss = 0, grad_norm = 0, lr = 0, seconds = 0;
};

/// Turns steps into rows of the trace and lines of progress. Rank 0 writes.
class Recorder {
 public:
  Recorder(const config::Config& config, model::Instance& instance, const Progress& progress,
           const std::vector<std::string>& corpora, bool resumed, std::int64_t last_step);

  /// Collective over the mesh. stats: summed over ranks.
  void add(const StepResult& result, model::MoeStats& stats,
           const std::vector<double>& task_tokens);
  void add(const io::EvalRow& row);
  void event(std::int64_t step, const std::string& kind, const std::string& message);
  /// What is kept is on disk: before a checkpoint of this step becomes visible.
  void flush();
  void close();

 private:
  void show(const StepResult& result);

  const config::Config& config_;
  model::Instance& instance_;
  std::optional<io::TraceWriter> trace_;  // on rank 0
  std::int64_t first_step_, last_step_;
  double comm_seconds_ = 0.0;  // in collectives, up to the last row
  double smooth_speed_ = 0.0;  // tokens/s
  Timer since_line_;
};

}  // namespace moesaic::train
