#include "train/recorder.h"

#include <fmt/format.h>

#include <cmath>

#include "base/log.h"
#include "base/text.h"

namespace moesaic::train {

Recorder::Recorder(const config::Config& config, model::Instance& instance,
                   const Progress& progress, const std::vector<std::string>& corpora, bool resumed,
                   std::int64_t last_step)
    : trace_(config, instance, progress.tasks, corpora,
             resumed ? std::optional(progress.step) : std::nullopt),
      first_step_(progress.step),
      last_step_(last_step) {}

void Recorder::add(const StepResult& result, model::MoeStats& stats,
                   const std::vector<double>& task_tokens) {
  io::TraceRow row;
  row.step = result.step;
  row.loss = result.loss;
  row.lm_loss = result.lm_loss;
  row.grad_norm = result.grad_norm;
  row.lr = result.lr;
  row.tokens = result.tokens;
  row.targets = result.targets;
  trace_.add(row, stats, task_tokens);
  show(result, row.seconds);
}

void Recorder::show(const StepResult& result, double seconds) {
  const auto tokens = static_cast<double>(result.tokens);
  const double speed = pace_.add(tokens, seconds);
  const bool first = result.step == first_step_ + 1;
  const bool last = result.step == last_step_;
  if (!pace_.line_is_due() && !first && !last) {
    return;
  }
  const double left = static_cast<double>(last_step_ - result.step) * tokens / speed;
  const std::string line = fmt::format(
      "step={}/{} loss={:.4f} grad_norm={:.3f} lr={:.2e} tokens_per_s={:.0f} eta={}", result.step,
      last_step_, result.lm_loss, result.grad_norm, result.lr, speed, short_duration(left));
  log::progress(line, line);
}

void Recorder::add(const io::EvalRow& row) {
  trace_.add(row);
  // Bare shards do not know their bytes: NaN.
  const std::string bits = std::isfinite(row.bits_per_byte)
                               ? fmt::format(" bits_per_byte={:.4f}", row.bits_per_byte)
                               : "";
  log::info(fmt::format("step={} eval_loss={:.4f}{}", row.step, row.loss, bits));
}

}  // namespace moesaic::train
