#include "cli/train_outputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/manifest.h"
#include "cli/trace_size.h"
#include "config/compare.h"
#include "config/routing_steps.h"
#include "config/validate.h"
#include "files/disk_space.h"
#include "files/durable.h"
#include "hf/folder.h"
#include "plan/report.h"

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
void check_outputs_fit(const config::Config& config, int ranks, const data::Corpora& corpora,
                       std::int64_t last) {
  std::vector<files::SpaceNeed> needs;
  if (!config.checkpoint.dir.empty()) {
    const double each = plan::estimate(config, ranks).checkpoint_bytes;
    const double kept = static_cast<double>(config.checkpoint.keep) * each;
    needs.push_back(
        {fmt::format("checkpoint.keep + 1 = {} checkpoints", config.checkpoint.keep + 1),
         config.checkpoint.dir,
         each + std::max(0.0, kept - bytes_that_count(config.checkpoint.dir, last))});
  }
  const std::int64_t rows = config::total_steps(config) / config.trace.every;
  const double trace = trace_size(config, ranks, task_names_of(corpora), corpora.size(), rows);
  needs.push_back({fmt::format("a trace of {} rows", rows), config.trace.path,
                   std::max(0.0, trace - files::bytes_below(config.trace.path))});
  if (const std::int64_t steps = config::routing_steps(config.trace, config::total_steps(config));
      steps > 0) {
    const std::string record = config::routing_path(config.trace);
    const double bytes = static_cast<double>(steps) * routing_size(config);
    needs.push_back({fmt::format("a routing record of {} steps", steps), record,
                     std::max(0.0, bytes - files::bytes_below(record))});
  }
  files::check_space(
      needs,
      "free some, keep fewer, raise trace.every, name fewer steps in trace.routing, or "
      "choose another run.dir");
}

}  // namespace

void TrainOutputs::claim(const config::Config& config) {
  std::vector<fs::path> folders;
  for (const std::string& dir : {config.run.dir, config.checkpoint.dir}) {
    if (dir.empty()) {
      continue;
    }
    files::make_folder(dir);
    const bool known = std::any_of(folders.begin(), folders.end(),
                                   [&](const fs::path& one) { return fs::equivalent(one, dir); });
    if (!known) {
      locks_.push_back(files::RunLock::of_folder(dir));
      folders.emplace_back(dir);
    }
  }
  locks_.push_back(files::RunLock::beside(config.trace.path));
  if (!config.checkpoint.dir.empty()) {
    checkpoint::put_back_replaced(config.checkpoint.dir);
  }
}

void TrainOutputs::check(const config::Config& config, int ranks, const data::Corpora& corpora,
                         std::int64_t last) {
  check_outputs_fit(config, ranks, corpora, last);
  check_begins_elsewhere(config, last);
}

void TrainOutputs::begin(const config::Config& config, std::int64_t last) {
  if (!config.run.dir.empty()) {
    files::write_whole(fs::path(config.run.dir) / "config.cfg", config::to_cfg(config));
    log::add_file(fs::path(config.run.dir) / "log.txt");
  }
  if (config.checkpoint.dir.empty()) {
    return;
  }
  for (const fs::path& other : checkpoint::set_aside_later(config.checkpoint.dir, last)) {
    log::info(fmt::format("a checkpoint of a later step is now {}", other.string()));
  }
}

}  // namespace moesaic::cli
