#pragma once

#include <optional>
#include <string>

#include "base/pace.h"
#include "io/routing_record.h"
#include "model/job_trace.h"
#include "train/resume.h"
#include "train/stepper.h"

namespace moesaic::train {

/// Turns steps into rows of the trace and lines of progress.
class Recorder {
 public:
  struct Names {
    std::vector<std::string> corpora, evaluated;  // what it trains and is evaluated on
  };
  Recorder(const config::Config& config, model::Instance& instance, const Progress& progress,
           const Names& names, bool resumed, std::int64_t last_step);

  /// Collective over the mesh. stats: summed over ranks.
  void add(const StepResult& result, model::MoeStats& stats,
           const std::vector<double>& task_tokens);
  void add(const io::EvalRow& row);
  /// The step's routing, if it is recorded. Collective over the mesh; throws AgreedError.
  void add_routing(std::int64_t step, std::vector<io::RoutedRows>& routed, StepBatches& batches);
  void event(std::int64_t step, const std::string& kind, const std::string& message) {
    trace_.event(step, kind, message);
  }
  /// What is kept is on disk: before a checkpoint of this step becomes visible. Collective over the
  /// mesh.
  void flush();
  void close();  // collective over the mesh

 private:
  void show(const StepResult& result, double seconds);

  const config::Config& config_;
  const comm::Mesh& mesh_;
  model::JobTrace trace_;
  std::optional<io::RoutingWriter> routing_;  // if any step's is recorded
  std::int64_t first_step_, last_step_;
  Pace pace_;
};

}  // namespace moesaic::train
