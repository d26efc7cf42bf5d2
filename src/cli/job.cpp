#include "cli/job.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "backend/phase_clock.h"
#include "base/log.h"
#include "base/text.h"
#include "checkpoint/load_weights.h"
#include "cli/threads.h"
#include "config/compare.h"
#include "config/layers.h"
#include "files/durable.h"
#include "record/trace.h"

namespace moesaic::cli {

namespace fs = std::filesystem;

void on_root(const comm::Communicator& world, std::string_view what,
             const std::function<void()>& step) {
  world.together(what, [&] {
    if (world.is_root()) {
      step();
    }
  });
}

comm::Facts facts_of(const config::Parsed& parsed) {
  comm::Facts facts = comm::program_facts();
  facts.emplace_back("job", fmt::format("{} {}", parsed.job, join(parsed.arguments, " ")));
  for (auto& fact : facts_of(parsed.config, nullptr)) {
    facts.push_back(std::move(fact));
  }
  return facts;
}

comm::Facts facts_of(const config::Config& config, const checkpoint::ModelSource* source) {
  comm::Facts facts = config::flatten(config);
  if (source != nullptr) {
    facts.push_back(fact_of(*source));
  }
  return facts;
}

comm::Facts::value_type fact_of(const checkpoint::ModelSource& source) {
  return {"model",
          fmt::format("{}, SHA-256 {}", source.path().string(),
                      source.fingerprint(checkpoint::ModelSource::Times::kIgnored).substr(0, 16))};
}

std::vector<files::RunLock> lock_outputs(const std::vector<fs::path>& folders,
                                         const fs::path& trace) {
  std::vector<files::RunLock> locks;
  std::vector<fs::path> locked;
  for (const fs::path& folder : folders) {
    if (folder.empty()) {
      continue;
    }
    files::make_folder(folder);
    const bool known = std::any_of(locked.begin(), locked.end(), [&](const fs::path& other) {
      return fs::equivalent(other, folder);
    });
    if (!known) {
      locks.push_back(files::RunLock::of_folder(folder));
      locked.push_back(folder);
    }
  }
  locks.push_back(files::RunLock::beside(trace));
  return locks;
}

files::SpaceNeed space_need(std::string what, const fs::path& place, double bytes) {
  return {std::move(what), place, std::max(0.0, bytes - files::bytes_below(place))};
}

files::SpaceNeed trace_need(const config::Config& config, const routing::GateState& gates,
                            int ranks, std::size_t tasks, std::size_t corpora, std::int64_t rows) {
  record::TraceAxes axes;
  axes.moe_layers.resize(config::moe_layers(config.model).size());
  axes.experts = routing::expert_numbers(config.model, config.router, gates);
  axes.choices = config.model.top_k;
  axes.phases = {kPhaseNames.begin(), kPhaseNames.end()};
  axes.tasks.resize(tasks);
  axes.corpora.resize(corpora);
  axes.groups = comm::traced_names();
  axes.ranks = ranks;
  return space_need(fmt::format("a trace of {} rows", rows), config.trace.path,
                    record::trace_bytes(axes, rows));
}

void begin_run_dir(const config::Config& config, const std::string& name) {
  const fs::path dir = config.run.dir;
  if (dir.empty()) {
    return;
  }
  files::make_folder(dir);
  if (!name.empty()) {
    files::write_whole(dir / name, config::to_cfg(config));
  }
  log::add_file(dir / "log.txt");
}

Ranks arrange_ranks(config::Config& config, const comm::Communicator& world) {
  Ranks ranks{.mesh = engine::make_mesh(config, world.ledger()), .placement = {}};
  Threads threads = choose_threads(config.run, ranks.mesh.node);
  config.run.threads = threads.count;
  ranks.placement = std::move(threads.placement);
  return ranks;
}

void load_model(std::optional<engine::Instance>& instance, const config::Config& config,
                const routing::GateState& gates, const comm::Mesh& mesh, engine::Use use,
                checkpoint::ModelSource& source, comm::Watchdog& watchdog) {
  instance.emplace(config, mesh, use, gates);
  checkpoint::load_parameters(*instance, source, checkpoint::Load::kValues,
                              comm::on_loading(watchdog));
}

}  // namespace moesaic::cli
