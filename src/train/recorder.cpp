#include "train/recorder.h"

#include <fmt/format.h>

#include <cmath>

#include "base/log.h"
#include "base/text.h"
#include "config/routing_steps.h"
#include "files/durable.h"
#include "record/moe_trace.h"

namespace moesaic::train {
namespace {

// What the trace says of the run, too.
record::RoutingAxes routing_axes(const config::Config& config, const engine::Instance& instance,
                                 const std::vector<std::string>& tasks,
                                 const std::vector<std::string>& corpora) {
  const std::vector<std::int64_t>& layers = instance.transformer.moe_layers();
  record::TraceAxes trace = record::trace_axes(config, instance, tasks, corpora);
  return {.moe_layers = layers,
          .experts = trace.experts,
          .choices = trace.choices,
          .step_rows = config.train.batch * config.data.seq_len,  // about, of documents
          .tasks = tasks,
          .corpora = corpora,
          .attributes = std::move(trace.attributes)};
}

}  // namespace

Recorder::Names Recorder::names_of(const data::Corpora& corpora, const data::Corpora& evaluated) {
  return {corpora.names(), (evaluated.size() > 0 ? evaluated : corpora).names()};
}

void Recorder::check(const config::Config& config, const engine::Instance& instance,
                     const Progress& progress, const Names& names) {
  if (!config.trace.routing.empty()) {
    record::RoutingWriter::check(config::routing_path(config.trace),
                                 routing_axes(config, instance, progress.tasks, names.corpora),
                                 instance.mesh.world);
  }
}

Recorder::Recorder(const config::Config& config, engine::Instance& instance,
                   const Progress& progress, const Names& names, bool resumed,
                   std::int64_t last_step)
    : config_(config),
      mesh_(instance.mesh),
      trace_(config, instance, progress.tasks, names.evaluated,
             resumed ? std::optional(progress.step) : std::nullopt),
      first_step_(progress.step),
      last_step_(last_step) {
  const std::string path = config::routing_path(config.trace);
  if (config.trace.routing.empty()) {
    if (!resumed && mesh_.world.is_root()) {
      files::set_aside(path);  // of another run, as its trace
    }
  } else {
    const record::RoutingAxes axes = routing_axes(config, instance, progress.tasks, names.corpora);
    routing_.emplace(resumed ? record::RoutingWriter::resume(path, axes, mesh_.world, progress.step)
                             : record::RoutingWriter::create(path, axes, mesh_.world));
  }
}

void Recorder::add_routing(const StepResult& result, std::vector<routing::RoutedRows>& routed,
                           data::StepBatches& batches) {
  if (!routing_ || !config::records_routing(config_.trace, result.step)) {
    return;
  }
  record::RoutingPart part;
  part.routed.swap(routed);
  if (mesh_[comm::Group::kPp].rank() == 0 && mesh_.counts()) {
    part.tokens.swap(batches.tokens);
  }
  attempt_routing(
      [&](record::RoutingWriter& writer) { writer.add(result.step, result.tokens, part); });
}

// As with the trace: an error waits until the run is saved. Collective.
void Recorder::attempt_routing(const std::function<void(record::RoutingWriter&)>& step) {
  if (!routing_ || routing_failure_) {
    return;
  }
  try {
    step(*routing_);
  } catch (const comm::AgreedError& error) {
    routing_failure_ = error;
    log::warn(fmt::format("the run will end, as its routing cannot be written: {}", error.what()));
  }
}

void Recorder::flush() {
  trace_.flush();
  attempt_routing([](record::RoutingWriter& writer) { writer.sync(); });
}

void Recorder::close() {
  attempt_routing([](record::RoutingWriter& writer) { writer.sync(); });
  trace_.close();
  if (routing_failure_) {
    throw comm::AgreedError(*routing_failure_);
  }
}

void Recorder::add(const StepResult& result, model::MoeStats& stats,
                   const std::vector<double>& task_tokens) {
  record::TraceRow row;
  row.step = result.step;
  row.loss = result.loss;
  row.lm_loss = result.lm_loss;
  row.token_accuracy = result.token_accuracy;
  row.entropy = result.entropy;
  row.grad_norm = result.grad_norm;
  row.lr = result.lr;
  row.tokens = result.tokens;
  row.targets = result.targets;
  trace_.add(row, stats, task_tokens);
  show(result, row.seconds);
}

void Recorder::show(const StepResult& result, double seconds) {
  const double speed = pace_.add(static_cast<double>(result.tokens), seconds);
  shown_tokens_ += result.tokens;
  const bool first = result.step == first_step_ + 1;
  const bool last = result.step == last_step_;
  if (!pace_.line_is_due() && !first && !last) {
    return;
  }
  const double tokens =
      static_cast<double>(shown_tokens_) / static_cast<double>(result.step - first_step_);
  const double left = static_cast<double>(last_step_ - result.step) * tokens / speed;
  const std::string line = fmt::format(
      "step={}/{} loss={:.4f} grad_norm={:.3f} lr={:.2e} tokens_per_s={:.0f} eta={}", result.step,
      last_step_, result.lm_loss, result.grad_norm, result.lr, speed, short_duration(left));
  log::progress(line, line);
}

void Recorder::add(const record::EvalRow& row) {
  trace_.add(row);
  // Bare shards do not know their bytes: NaN.
  const std::string bits = std::isfinite(row.bits_per_byte)
                               ? fmt::format(" bits_per_byte={:.4f}", row.bits_per_byte)
                               : "";
  log::info(fmt::format("step={} eval_loss={:.4f}{}", row.step, row.loss, bits));
}

}  // namespace moesaic::train
