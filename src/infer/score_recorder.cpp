#include "infer/score_recorder.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "base/text.h"
#include "model/moe_trace.h"

namespace moesaic::infer {

ScoreRecorder::ScoreRecorder(const config::Config& config, model::Instance& instance,
                             const ScoreCorpora& corpora, std::int64_t last_step, double all_tokens)
    : config_(config),
      instance_(instance),
      step_(last_step),
      shards_(corpora.shards()),
      all_tokens_(all_tokens) {
  instance.mesh.world.together("open the trace", [&] {
    if (!instance.mesh.world.is_root()) {
      return;
    }
    const io::TraceAxes axes = model::trace_axes(
        config, instance.mesh, instance.transformer.moe_layers(), corpora.tasks(), corpora.names());
    trace_ = last_step > 0
                 ? io::TraceWriter::resume(config.trace.path, axes, config.trace.flush, last_step)
                 : io::TraceWriter::create(config.trace.path, axes, config.trace.flush);
  });
  instance.clock.take();
}

void ScoreRecorder::add(const RoundSums& sums, model::MoeStats& stats, double waited,
                        std::int64_t shard) {
  const double in_comm = instance_.comm_seconds() - comm_seconds_;
  comm_seconds_ += in_comm;
  io::TraceRow row;
  model::fill_times(row, instance_.clock.take(), in_comm + waited, instance_.mesh.world);
  row.step = ++step_;
  row.lm_loss = sums.targets > 0.0 ? sums.nats / sums.targets : 0.0;
  row.loss = row.lm_loss;
  row.tokens = static_cast<std::int64_t>(sums.tokens);
  row.targets = static_cast<std::int64_t>(sums.targets);
  row.task_tokens.assign(sums.task_tokens.begin(), sums.task_tokens.end());
  model::fill_moe(row, stats, sums.tokens, config_.model.top_k);
  if (trace_ && step_ % config_.trace.every == 0) {
    trace_->add(row);
  }
  longest_round_ = std::max(longest_round_, row.seconds);
  show(row.seconds, sums.tokens, shard, done_tokens_ == 0.0);
}

void ScoreRecorder::show(double seconds, double tokens, std::int64_t shard, bool first) {
  done_tokens_ += tokens;
  const double speed = tokens / std::max(1e-9, seconds);
  smooth_speed_ = first ? speed : 0.9 * smooth_speed_ + 0.1 * speed;
  const double pause = log::is_terminal() ? 0.1 : 5.0;
  if (!first && since_line_.seconds() < pause) {
    return;
  }
  since_line_.restart();
  const double left = std::max(0.0, all_tokens_ - done_tokens_) / std::max(1.0, smooth_speed_);
  const std::string line = fmt::format("shard={}/{} batch={} tokens_per_s={:.0f} eta={}", shard + 1,
                                       shards_, step_, smooth_speed_, short_duration(left));
  log::progress(line, line);
}

void ScoreRecorder::event(const std::string& kind, const std::string& message) {
  if (trace_) {
    trace_->event(step_, kind, message);
  }
}

void ScoreRecorder::flush() {
  instance_.mesh.world.together("write the trace", [&] {
    if (trace_) {
      trace_->flush();
    }
  });
}

void ScoreRecorder::close() {
  instance_.mesh.world.together("close the trace", [&] {
    if (trace_) {
      trace_->close();
    }
  });
}

}  // namespace moesaic::infer
