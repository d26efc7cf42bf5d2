#pragma once

#include <functional>
#include <optional>
#include <string>

#include "base/pace.h"
#include "data/corpora.h"
#include "record/job_trace.h"
#include "record/routing_record.h"
#include "train/resume.h"
#include "train/stepper.h"

namespace moesaic::train {

/// Turns steps into rows of the trace and lines of progress.
class Recorder {
 public:
  struct Names {
    std::vector<std::string> corpora, evaluated;  // what it trains and is evaluated on
  };
  static Names names_of(const data::Corpora& corpora,
                        const data::Corpora& evaluated);  // none: the same
  /// Throws, before anything of a run that goes on is changed, if its routing record is of another
  /// one. Collective over the mesh.
  static void check(const config::Config& config, const engine::Instance& instance,
                    const Progress& progress, const Names& names);
  Recorder(const config::Config& config, engine::Instance& instance, const Progress& progress,
           const Names& names, bool resumed, std::int64_t last_step);

  /// Collective over the mesh. stats: summed over ranks.
  void add(const StepResult& result, model::MoeStats& stats,
           const std::vector<double>& task_tokens);
  void add(const record::EvalRow& row);
  /// The step's routing, if it is recorded. Collective over the mesh; throws AgreedError.
  void add_routing(const StepResult& result, std::vector<routing::RoutedRows>& routed,
                   data::StepBatches& batches);
  void event(std::int64_t step, const std::string& kind, const std::string& message) {
    trace_.event(step, kind, message);
  }
  /// What is kept is on disk: before a checkpoint of this step becomes visible. Collective over the
  /// mesh.
  void flush();
  /// Collective over the mesh. Throws AgreedError if anything could not be written.
  void close();
  /// Whether this rank knows of something that could not be written: then nothing more is, and the
  /// run should save and end.
  bool failed() const { return trace_.failed() || routing_failure_; }

 private:
  void show(const StepResult& result, double seconds);
  void attempt_routing(const std::function<void(record::RoutingWriter&)>& step);

  const config::Config& config_;
  const comm::Mesh& mesh_;
  record::JobTrace trace_;
  std::optional<record::RoutingWriter> routing_;  // if any step's is recorded
  std::optional<comm::AgreedError> routing_failure_;
  std::int64_t first_step_, last_step_;
  std::int64_t shown_tokens_ = 0;  // of the steps since first_step_
  Pace pace_;
};

}  // namespace moesaic::train
