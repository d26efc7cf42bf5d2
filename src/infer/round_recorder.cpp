#include "infer/score_recorder.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "base/text.h"

namespace moesaic::infer {

ScoreRecorder::ScoreRecorder(const config::Config& config, model::Instance& instance,
                             const ScoreCorpora& corpora, std::int64_t last_step, double all_tokens)
    : world_(instance.mesh.world),
      trace_(config, instance, corpora.tasks(), corpora.names(),
             last_step > 0 ? std::optional(last_step) : std::nullopt),
      step_(last_step),
      shards_(corpora.shards()),
      all_tokens_(all_tokens) {
  instance.clock.take();
}

void ScoreRecorder::add(const RoundSums& sums, model::MoeStats& stats, std::int64_t shard) {
  io::TraceRow row;
  row.step = ++step_;
  row.lm_loss = sums.targets > 0.0 ? sums.nats / sums.targets : 0.0;
  row.loss = row.lm_loss;
  row.tokens = static_cast<std::int64_t>(sums.tokens);
  row.targets = static_cast<std::int64_t>(sums.targets);
  trace_.add(row, stats, sums.task_tokens);
  longest_round_ = std::max(longest_round_, row.seconds);
  show(row.seconds, sums.tokens, shard);
}

void ScoreRecorder::show(double seconds, double tokens, std::int64_t shard) {
  const bool first = done_tokens_ == 0.0;
  done_tokens_ += tokens;
  const double speed = pace_.add(tokens, seconds);
  if (!pace_.line_is_due() && !first) {
    return;
  }
  const double left = std::max(0.0, all_tokens_ - done_tokens_) / std::max(1.0, speed);
  const std::string line = fmt::format("shard={}/{} batch={} tokens_per_s={:.0f} eta={}", shard + 1,
                                       shards_, step_, speed, short_duration(left));
  log::progress(line, line);
}

void ScoreRecorder::flush() {
  world_.together("write the trace", [&] { trace_.flush(); });
}

}  // namespace moesaic::infer
