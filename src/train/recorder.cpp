#include "train/recorder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/log.h"
#include "base/text.h"
#include "model/moe_trace.h"

namespace moesaic::train {

Recorder::Recorder(const config::Config& config, model::Instance& instance,
                   const Progress& progress, const std::vector<std::string>& corpora, bool resumed,
                   std::int64_t last_step)
    : config_(config), instance_(instance), first_step_(progress.step), last_step_(last_step) {
  instance.mesh.world.together("open the trace", [&] {
    if (!instance.mesh.world.is_root()) {
      return;
    }
    const io::TraceAxes axes = model::trace_axes(
        config, instance.mesh, instance.transformer.moe_layers(), progress.tasks, corpora);
    trace_ = resumed ? io::TraceWriter::resume(config.trace.path, axes, config.trace.flush,
                                               progress.step)
                     : io::TraceWriter::create(config.trace.path, axes, config.trace.flush);
  });
}

void Recorder::add(const StepResult& result, model::MoeStats& stats,
                   const std::vector<double>& task_tokens) {
  const comm::Communicator& world = instance_.mesh.world;
  const double in_comm = instance_.comm_seconds();
  io::TraceRow row;
  model::fill_times(row, instance_.clock.take(), in_comm - comm_seconds_, world);
  comm_seconds_ = in_comm;
  row.step = result.step;
  row.loss = result.loss;
  row.lm_loss = result.lm_loss;
  row.grad_norm = result.grad_norm;
  row.lr = result.lr;
  row.tokens = result.tokens;
  row.targets = result.targets;
  row.task_tokens.assign(task_tokens.begin(), task_tokens.end());
  model::fill_moe(row, stats, static_cast<double>(result.tokens), config_.model.top_k);
  if (trace_ && result.step % config_.trace.every == 0) {
    trace_->add(row);
  }
  StepResult shown = result;
  shown.seconds = row.seconds;
  show(shown);
}

void Recorder::show(const StepResult& result) {
  const double speed = static_cast<double>(result.tokens) / std::max(1e-9, result.seconds);
  smooth_speed_ = smooth_speed_ == 0.0 ? speed : 0.9 * smooth_speed_ + 0.1 * speed;
  const bool first = result.step == first_step_ + 1;
  const bool last = result.step == last_step_;
  const double pause = log::is_terminal() ? 0.1 : 5.0;
  if (!first && !last && since_line_.seconds() < pause) {
    return;
  }
  since_line_.restart();
  const double left = static_cast<double>(last_step_ - result.step) *
                      static_cast<double>(result.tokens) / smooth_speed_;
  const std::string line = fmt::format(
      "step={}/{} loss={:.4f} grad_norm={:.3f} lr={:.2e} tokens_per_s={:.0f} eta={}", result.step,
      last_step_, result.lm_loss, result.grad_norm, result.lr, smooth_speed_, short_duration(left));
  log::progress(line, line);
}

void Recorder::add(const io::EvalRow& row) {
  if (trace_) {
    trace_->add(row);
  }
  // Bare shards do not know their bytes: NaN.
  const std::string bits = std::isfinite(row.bits_per_byte)
                               ? fmt::format(" bits_per_byte={:.4f}", row.bits_per_byte)
                               : "";
  log::info(fmt::format("step={} eval_loss={:.4f}{}", row.step, row.loss, bits));
}

void Recorder::event(std::int64_t step, const std::string& kind, const std::string& message) {
  if (trace_) {
    trace_->event(step, kind, message);
  }
}

void Recorder::flush() {
  if (trace_) {
    trace_->flush();
  }
}

void Recorder::close() {
  instance_.mesh.world.together("close the trace", [&] {
    if (trace_) {
      trace_->close();
    }
  });
}

}  // namespace moesaic::train
