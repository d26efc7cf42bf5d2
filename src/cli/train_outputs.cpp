#include "cli/train_outputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/manifest.h"
#include "cli/job.h"
#include "config/enum_names.h"
#include "config/layers.h"
#include "config/routing_steps.h"
#include "config/validate.h"
#include "hf/config.h"
#include "hf/folder.h"
#include "plan/report.h"
#include "record/routing_record.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

std::size_t task_names_of(const data::Corpora& corpora) {
  std::set<std::string> names;
  for (std::size_t c = 0; c < corpora.size(); ++c) {
    names.insert(corpora.info(c).task_names.begin(), corpora.info(c).task_names.end());
  }
  return names.size();
}

// Bytes that make way for new checkpoints.
double bytes_that_count(const fs::path& dir, std::int64_t last) {
  double bytes = 0.0;
  for (const fs::path& folder : checkpoint::complete_checkpoints(dir)) {
    bytes += folder <= checkpoint::checkpoint_folder(dir, last) ? files::bytes_below(folder) : 0.0;
  }
  return bytes;
}

// A model that the run begins with may not be among the checkpoints that it leaves behind.
void check_begins_elsewhere(const config::Config& config, std::int64_t last) {
  const fs::path model = config.model.path;
  if (last != -1 || model.empty() || config.checkpoint.dir.empty()) {
    return;
  }
  const auto later = checkpoint::complete_checkpoints(config.checkpoint.dir);
  const fs::path folder =
      hf::HfFolder::is_one(model) ? model : checkpoint::CheckpointReader::find(model);
  if (std::any_of(later.begin(), later.end(),
                  [&](const fs::path& own) { return fs::equivalent(own, folder); })) {
    throw Error(Exit::kUsage,
                fmt::format("model.path = {} lies in checkpoint.dir = {}, whose checkpoints a run "
                            "that begins anew leaves behind: choose another run.dir",
                            config.model.path, config.checkpoint.dir));
  }
}

// All that checkpoint.keep keeps, the one being written, and the trace must fit.
void check_outputs_fit(const config::Config& config, const routing::GateState& gates, int ranks,
                       const data::Corpora& corpora, std::int64_t last) {
  std::vector<files::SpaceNeed> needs;
  if (!config.checkpoint.dir.empty()) {
    const double each = plan::estimate(config, ranks, gates).checkpoint_bytes;
    const double kept = static_cast<double>(config.checkpoint.keep) * each;
    needs.push_back(
        {fmt::format("checkpoint.keep + 1 = {} checkpoints", config.checkpoint.keep + 1),
         config.checkpoint.dir,
         each + std::max(0.0, kept - bytes_that_count(config.checkpoint.dir, last))});
  }
  const std::int64_t rows = config::total_steps(config) / config.trace.every;
  needs.push_back(trace_need(config, gates, ranks, task_names_of(corpora), corpora.size(), rows));
  if (const std::int64_t steps = config::routing_steps(config.trace, config::total_steps(config));
      steps > 0) {
    needs.push_back(space_need(fmt::format("a routing record of {} steps", steps),
                               config::routing_path(config.trace),
                               static_cast<double>(steps) * routing_bytes(config)));
  }
  files::check_space(
      needs,
      "free some, keep fewer, raise trace.every, name fewer steps in trace.routing, or "
      "choose another run.dir");
}

// Whether there is nothing but what a model's folder may have.
bool is_replaceable(const fs::path& folder) {
  constexpr std::array<std::string_view, 5> kOurs = {".safetensors", ".json", ".model", ".txt",
                                                     ".jinja"};
  if (!fs::exists(folder)) {
    return true;
  }
  return fs::is_directory(folder) &&
         std::all_of(fs::directory_iterator(folder), {}, [&](const fs::directory_entry& entry) {
           return std::find(kOurs.begin(), kOurs.end(), entry.path().extension().string()) !=
                  kOurs.end();
         });
}

// A folder of checkpoint.export can be written at the end.
void check_export(const config::Config& config) {
  const config::Checkpoint& wanted = config.checkpoint;
  if (wanted.exported == config::Export::kNone) {
    return;
  }
  const fs::path folder = export_path(wanted);
  std::error_code none;
  for (const std::string& read : {config.model.path, config.model.adapter}) {
    if (!read.empty() && fs::equivalent(read, folder, none)) {
      throw Error(Exit::kUsage,
                  fmt::format("checkpoint.export would replace {}, which this run reads: choose "
                              "another run.dir",
                              fs::absolute(folder).string()));
    }
  }
  if (!is_replaceable(folder)) {
    throw Error(Exit::kCannotCreate,
                fmt::format("checkpoint.export writes to {}, where something else is: remove it",
                            fs::absolute(folder).string()));
  }
  const bool of_base =
      wanted.exported == config::Export::kPeft && hf::HfFolder::is_one(config.model.path);
  if (!of_base) {
    hf::family_for(config.model, config.router);  // throws if no folder can hold the model
  }
}

}  // namespace

std::vector<files::RunLock> claim_train_outputs(const config::Config& config) {
  auto locks = lock_outputs({config.run.dir, config.checkpoint.dir}, config.trace.path);
  if (!config.checkpoint.dir.empty()) {
    checkpoint::put_back_replaced(config.checkpoint.dir);
  }
  return locks;
}

void check_train_outputs(const config::Config& config, const routing::GateState& gates, int ranks,
                         const data::Corpora& corpora, std::int64_t last) {
  check_outputs_fit(config, gates, ranks, corpora, last);
  check_begins_elsewhere(config, last);
  check_export(config);
}

fs::path export_path(const config::Checkpoint& config) {
  return fs::path(config.dir) / config::name_of(config.exported);
}

void clear_export(const config::Checkpoint& config) {
  const fs::path folder = export_path(config);
  if (is_replaceable(folder)) {
    fs::remove_all(folder);
  }
}

void begin_train_outputs(const config::Config& config, std::int64_t last) {
  begin_run_dir(config, "config.cfg");
  if (config.checkpoint.dir.empty()) {
    return;
  }
  for (const fs::path& other : checkpoint::set_aside_later(config.checkpoint.dir, last)) {
    log::info(fmt::format("a checkpoint of a later step is now {}", other.string()));
  }
}

double routing_bytes(const config::Config& config) {
  return record::routing_step_bytes(std::ssize(config::moe_layers(config.model)),
                                    config.model.top_k, config.train.batch * config.data.seq_len);
}

}  // namespace moesaic::cli
