#include "train/resume.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "base/version.h"
#include "config/compare.h"
#include "config/layers.h"
#include "config/pool.h"
#include "io/checkpoint.h"

namespace moesaic::train {
namespace {

bool allowed(const std::vector<std::string>& allow, const std::string& key) {
  return std::any_of(allow.begin(), allow.end(), [&](const std::string& entry) {
    return key == entry || key.starts_with(entry + ".");
  });
}

// Of Slurm, which keeps it when it starts the job again; empty: none.
std::string job_id() {
  const char* const id = std::getenv("SLURM_JOB_ID");
  return id != nullptr ? id : "";
}

// A job that Slurm starts again has the command of its first start: it goes on from what it has
// saved since.
std::optional<std::filesystem::path> saved_since(const config::Checkpoint& config) {
  const char* const restarts = std::getenv("SLURM_RESTART_COUNT");
  if (restarts == nullptr || std::string_view(restarts) == "0" || job_id().empty()) {
    return std::nullopt;
  }
  const auto complete = io::complete_checkpoints(config.dir);
  if (complete.empty()) {
    return std::nullopt;
  }
  const auto reader = io::CheckpointReader::open(complete.back());
  return reader.state().value("job", "") == job_id() ? std::optional(reader.path()) : std::nullopt;
}

}  // namespace

nlohmann::json to_state(const Progress& progress, const config::Config& config,
                        const std::string& layout, const std::string& vocab_sha256) {
  nlohmann::json flat;
  for (const auto& [key, value] : config::flatten(config)) {
    flat[key] = value;
  }
  std::vector<std::string> pool;
  const auto layers = std::ssize(config::moe_layers(config.model));
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    pool.push_back(config::pool_of(config.model, config.router, layer));
  }
  return {{"step", progress.step},
          {"cursor", progress.cursor},
          {"tokens", progress.tokens},
          {"evaluation_due", progress.evaluation_due},
          {"task_names", progress.tasks},
          {"begin_tokens", progress.special.bos},
          {"end_tokens", progress.special.eos},
          {"control", progress.control},
          {"pool", pool},
          {"config", flat},
          {"layout", layout},
          {"job", job_id()},
          {"vocab_sha256", vocab_sha256},
          {"program_version", version()},
          {"git_hash", git_hash()}};
}

Progress from_state(const nlohmann::json& state) {
  return {.step = state.at("step"),
          .cursor = state.at("cursor"),
          .tokens = state.at("tokens"),
          .evaluation_due = state.value("evaluation_due", false),
          .tasks = state.at("task_names"),
          .special = {state.value("begin_tokens", std::vector<std::int32_t>{}),
                      state.value("end_tokens", std::vector<std::int32_t>{})},
          .control = state.value("control", ""),
          .notes = {}};
}

std::optional<std::filesystem::path> checkpoint_to_resume(const config::Checkpoint& config) {
  if (config.resume != "auto") {
    if (auto since = saved_since(config)) {
      return since;
    }
    return config.resume == "none"
               ? std::nullopt
               : std::optional(io::CheckpointReader::open(config.resume).path());
  }
  if (config.dir.empty()) {
    return std::nullopt;
  }
  const auto complete = io::complete_checkpoints(config.dir);
  return complete.empty() ? std::nullopt : std::optional(complete.back());
}

config::Config config_of(const nlohmann::json& state) {
  config::Flat flat;
  for (const auto& [key, value] : state.at("config").items()) {
    flat.emplace_back(key, value.get<std::string>());
  }
  return config::unflatten(flat);
}

Progress check_resume(const nlohmann::json& state, const config::Config& config,
                      const std::string& vocab_sha256, const std::filesystem::path& path) {
  Progress progress = from_state(state);
  std::vector<std::vector<std::string>> refused = {{"key", "was", "is"}};
  std::vector<std::string> passed;
  bool other_data = false;
  for (const config::Difference& d : config::differences(config_of(state), config)) {
    if (config::may_change_on_resume(d.key)) {
      continue;
    }
    if (allowed(config.checkpoint.allow, d.key)) {
      passed.push_back(fmt::format("{}: {} -> {}", d.key, d.was, d.is));
      other_data = other_data || d.key.starts_with("data.");
    } else {
      refused.push_back({d.key, d.was, d.is});
    }
  }
  if (refused.size() > 1) {
    throw Error(Exit::kMismatch,
                fmt::format("{} belongs to a run with another config:\n{}Change these back, start "
                            "anew in another run.dir, or let them pass with checkpoint.allow=KEY",
                            path.string(), table(refused)));
  }
  const std::string stored_vocab = state.at("vocab_sha256");
  if (stored_vocab != vocab_sha256) {
    throw Error(Exit::kMismatch,
                fmt::format("{}: its vocabulary has SHA-256 {}, the corpus's has {}: continue with "
                            "a corpus of the same tokenizer",
                            path.string(), stored_vocab, vocab_sha256));
  }
  if (other_data) {
    progress.cursor = 0;
  }
  if (!passed.empty()) {
    progress.notes.push_back({"config_changed", join(passed, "; ")});
  }
  return progress;
}

}  // namespace moesaic::train
