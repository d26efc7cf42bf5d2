#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>

#include "base/error.h"
#include "base/text.h"
#include "config/validate.h"
#include "config/value.h"

namespace moesaic::config {
namespace {

void set_if_empty(std::string& value, const std::string& derived) {
  if (value.empty()) {
    value = derived;
  }
}

void set_if_zero(std::int64_t& value, std::int64_t derived) {
  if (value == 0) {
    value = derived;
  }
}

/// "dir/name.h5" -> "dir/name.trace.h5"; so does a folder "dir/name/".
std::string trace_beside(const std::string& output) {
  std::filesystem::path path(output);
  if (!path.has_filename()) {
    path = path.parent_path();
  }
  if (path.extension() == ".h5") {
    path.replace_extension();
  }
  return path.string() + ".trace.h5";
}

// As long as the samples are not counted, epochs are no limit.
std::int64_t steps_of_epochs(const Train& train, std::int64_t no_limit) {
  if (train.epochs <= 0.0 || train.epoch_samples == 0) {
    return no_limit;
  }
  constexpr double kRounding = 1e-12;  // of 1.1 x 10, say, which is more than 11
  const double steps =
      train.epochs * static_cast<double>(train.epoch_samples) / static_cast<double>(train.batch);
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::ceil(steps * (1.0 - kRounding))));
}

}  // namespace

RunPaths run_paths(const std::string& run_dir) {
  if (run_dir.empty()) {
    return {};
  }
  const std::filesystem::path dir(run_dir);
  return {(dir / "trace.h5").string(), (dir / "checkpoints").string(), (dir / "scores.h5").string(),
          (dir / "generations.h5").string()};
}

std::int64_t total_steps(const Config& config) {
  const Train& train = config.train;
  const std::int64_t per_step = train.batch * config.data.seq_len;
  constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();
  const std::int64_t by_steps = train.steps > 0 ? train.steps : kNoLimit;
  const std::int64_t by_tokens = train.tokens > 0 ? (train.tokens - 1) / per_step + 1 : kNoLimit;
  const std::int64_t steps = std::min({by_steps, by_tokens, steps_of_epochs(train, kNoLimit)});
  return steps == kNoLimit ? 0 : steps;
}

void set_epoch(Config& config, std::int64_t samples) {
  config.train.epoch_samples = samples;
  set_if_zero(config.train.decay_steps, total_steps(config));
}

std::int64_t default_stride(const Config& config) {
  return std::max<std::int64_t>(1, config.score.window / 2);
}

void resolve(Config& config, const std::string& job) {
  Model& model = config.model;
  set_if_zero(model.kv_heads, model.heads);
  if (model.d_model % model.heads == 0) {
    set_if_zero(model.head_dim, model.d_model / model.heads);
  }
  set_if_zero(model.d_ff, 4 * model.d_model);
  set_if_zero(model.expert_d_ff, model.d_model);
  set_if_zero(config.parallel.expert_tp, config.parallel.tp);
  const bool adapts = config.adapter.rank > 0;
  if (adapts && config.train.trainable.empty()) {
    config.train.trainable = {"adapter"};
  }
  if (config.checkpoint.content == Content::kAuto) {
    config.checkpoint.content =
        adapts && !config.model.path.empty() ? Content::kTrained : Content::kAll;
  }
  if (config.train.epochs == 0.0) {  // else set_epoch does it
    set_if_zero(config.train.decay_steps, total_steps(config));
  }
  set_if_zero(config.score.window, model.max_seq);
  set_if_zero(config.score.stride, default_stride(config));

  if (job == "train" || job == "score" || job == "generate") {
    config.plan.job = job;
  }
  const RunPaths paths = run_paths(config.run.dir);
  set_if_empty(config.checkpoint.dir, paths.checkpoints);
  set_if_empty(config.score.output, paths.scores);
  set_if_empty(config.generate.output, paths.generations);
  if (job == "score" && !config.score.output.empty()) {
    set_if_empty(config.trace.path, trace_beside(config.score.output));
  }
  if (job == "generate" && !config.generate.output.empty()) {
    set_if_empty(config.trace.path, trace_beside(config.generate.output));
  }
  set_if_empty(config.trace.path, paths.trace.empty() ? "trace.h5" : paths.trace);
}

ShardRange parse_shards(const std::string& text) {
  if (text.empty()) {
    return {};
  }
  const std::vector<std::string> parts = split(text, '/');
  if (parts.size() == 2) {
    const ShardRange range{parse_integer(parts[0]), parse_integer(parts[1])};
    if (0 <= range.first && range.first < range.every) {
      return range;
    }
  }
  throw Error(Exit::kUsage,
              fmt::format("\"{}\" is not I/N with I from 0 to N - 1, such as 0/4", text));
}

}  // namespace moesaic::config
