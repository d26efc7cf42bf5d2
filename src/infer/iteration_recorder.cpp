#include "infer/iteration_recorder.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "base/text.h"

namespace moesaic::infer {

IterationRecorder::IterationRecorder(const config::Config& config, engine::Instance& instance,
                                     const data::Corpora& corpora, std::int64_t last_step,
                                     double all_work)
    : trace_(config, instance, corpora.tasks(), corpora.names(),
             last_step > 0 ? std::optional(last_step) : std::nullopt),
      step_(last_step),
      all_work_(all_work) {
  instance.clock.take();
}

void IterationRecorder::add(const IterationSums& sums, model::MoeStats& stats,
                            const std::string& where) {
  record::TraceRow row;
  row.step = ++step_;
  row.lm_loss = sums.targets > 0.0 ? sums.nats / sums.targets : 0.0;
  row.loss = row.lm_loss;
  row.tokens = static_cast<std::int64_t>(sums.tokens);
  row.targets = static_cast<std::int64_t>(sums.targets);
  trace_.add(row, stats, sums.task_tokens);
  longest_iteration_ = std::max(longest_iteration_, row.seconds);
  show(row.seconds, sums, where);
}

void IterationRecorder::show(double seconds, const IterationSums& sums, const std::string& where) {
  const bool first = done_work_ == 0.0;
  done_work_ += sums.work;
  const double speed = tokens_.add(sums.tokens, seconds);
  const double pace = work_.add(sums.work, seconds);
  if (!tokens_.line_is_due() && !first) {
    return;
  }
  const double left = std::max(0.0, all_work_ - done_work_) / std::max(1.0, pace);
  const std::string line = fmt::format("{} batch={} tokens_per_s={:.0f} eta={}", where, step_,
                                       speed, short_duration(left));
  log::progress(line, line);
}

}  // namespace moesaic::infer
