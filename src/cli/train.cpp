#include <fmt/format.h>

#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "base/io_error.h"
#include "base/log.h"
#include "base/text.h"
#include "cli/checkpoint_model.h"
#include "cli/convert_write.h"
#include "cli/job.h"
#include "cli/jobs.h"
#include "cli/train_inputs.h"
#include "cli/train_outputs.h"
#include "comm/launch.h"
#include "comm/stop.h"
#include "config/routing_steps.h"
#include "config/validate.h"
#include "files/durable.h"
#include "hf/unfinished.h"
#include "plan/report.h"
#include "train/session.h"

namespace moesaic::cli {
namespace {

// The last step of which checkpoints count (check_train_outputs).
std::int64_t last_that_counts(const config::Checkpoint& config, const train::Origin& origin) {
  if (config.resume == "auto") {
    return std::numeric_limits<std::int64_t>::max();
  }
  return origin.resume ? origin.progress.step : -1;
}

void show_table(const TrainInputs& inputs, const plan::Estimate& estimate, const Ranks& ranks) {
  const config::Config& config = inputs.config;
  const std::string outputs =
      config.checkpoint.dir.empty()
          ? "no checkpoints (set run.dir or checkpoint.dir)"
          : fmt::format("{} (every {} steps, {:g} minutes)", config.checkpoint.dir,
                        config.checkpoint.every, config.checkpoint.every_minutes);
  std::vector<std::vector<std::string>> lines = document_rows(inputs);
  lines.insert(lines.end(), {{"placement", ranks.placement},
                             {"mpi", comm::mpi_text()},
                             {"checkpoints", outputs},
                             {"trace", config.trace.path}});
  if (!config.trace.routing.empty()) {
    lines.push_back(
        {"routing record",
         fmt::format("{} ({} bytes, {}, for each of {} steps)", config::routing_path(config.trace),
                     routing_bytes(config), short_bytes(routing_bytes(config)),
                     config::routing_steps(config.trace, config::total_steps(config)))});
  }
  log::print(plan::report(estimate, config, inputs.corpora.tokens()) +
             table(ranks.mesh.layout.rows()) + table(lines));
  const bool batch_job = std::getenv("SLURM_JOB_ID") != nullptr || config.run.max_wall >= 0.0;
  if (config.checkpoint.dir.empty() && batch_job) {
    log::warn("a batch job without checkpoints loses its work when it is stopped: set run.dir");
  }
}

// Sidecar files of the model or the checkpoint that training starts from; the tokenizer is the
// corpus's.
std::map<std::string, std::string> sidecar_texts(const std::filesystem::path& folder,
                                                 const data::CorpusInfo& corpus) {
  std::map<std::string, std::string> texts;
  for (const auto& file : hf::sidecar_files(folder)) {
    if (corpus.tokenizer.empty() || file.stem() != "tokenizer") {
      texts[file.filename().string()] = files::read_whole(file);
    }
  }
  return texts;
}

// Rank 0 owns the outputs, then looks for the checkpoint to go on from: no other job changes what
// is there, and no other rank may see it otherwise. Collective over world.
std::optional<std::filesystem::path> choose_checkpoint(const config::Config& config,
                                                       std::vector<files::RunLock>& locks,
                                                       const comm::Communicator& world) {
  std::string chosen;
  on_root(world, "claim the outputs", [&] {
    at_start([&] { locks = claim_train_outputs(config); });
    chosen = train::checkpoint_to_resume(config.checkpoint).value_or("").string();
  });
  world.broadcast(chosen, 0);
  return chosen.empty() ? std::nullopt : std::optional<std::filesystem::path>(chosen);
}

// Checks the model on rank 0, which reads the sidecar files, and loads it. Collective over world.
void set_up(train::Session& session, const comm::Communicator& world) {
  const train::Origin& origin = session.origin;
  world.together("set up the model", [&] {
    if (world.is_root() && origin.source != nullptr) {
      if (!origin.resume) {
        check_folder(*origin.source, world);
      }
      session.sidecars = sidecar_texts(origin.source->path(), session.corpora.info(0));
    }
    train::load(session);
  });
  comm::agree_to_go_on("loading", world);
}

// checkpoint.export: the newest checkpoint as a Hugging Face folder, or its adapters as one of
// PEFT, a tensor at a time. Collective over world.
void export_folder(const config::Config& config, const comm::Communicator& world,
                   comm::Watchdog& watchdog) {
  std::string newest;
  on_root(world, "find the last checkpoint", [&] {
    newest = checkpoint::CheckpointReader::find(config.checkpoint.dir).string();
    clear_export(config.checkpoint);
  });
  world.broadcast(newest, 0);
  config::Parsed parsed;
  parsed.job = "convert";
  parsed.config = config;
  parsed.config.parallel = {};
  parsed.config.model.adapter.clear();
  parsed.config.convert = config::ConvertJob();
  parsed.config.convert.to = config.checkpoint.exported == config::Export::kPeft
                                 ? config::ConvertTo::kPeft
                                 : config::ConvertTo::kHf;
  parsed.arguments = {newest, export_path(config.checkpoint).string()};
  checkpoint::Catalog catalog;
  ConvertInputs inputs;
  checkpoint::read_once(catalog, world, "read the last checkpoint",
                        [&] { inputs = read_convert_inputs(parsed, world.size(), catalog); });
  watchdog.saving();
  const auto made =
      write_copy(inputs, catalog.model(newest), {}, world, [&] { watchdog.saving(); });
  log::print(fmt::format("folder: {}", made.string()));
}

}  // namespace

int train(const config::Parsed& parsed, const comm::Communicator& world, comm::Watchdog& watchdog) {
  TrainInputs inputs;
  checkpoint::Catalog catalog;
  checkpoint::read_once(catalog, world, "read the config",
                        [&] { inputs = read_train_inputs(parsed, world.size(), catalog); });
  find_samples(inputs, world);
  on_root(world, "look for targets", [&] { check_targets(inputs); });
  config::Config& config = inputs.config;
  const train::RunData data = train::data_of(inputs.corpora);
  watchdog.loading();
  std::vector<files::RunLock> locks;  // on rank 0
  train::Origin origin{.resume = choose_checkpoint(config, locks, world)};
  comm::Facts facts;
  checkpoint::read_once(catalog, world, "read the checkpoint", [&] {
    adopt_origin(inputs, data, catalog, origin);
    facts = facts_of(config, origin.source);
  });
  comm::check_same(facts, world);
  comm::agree_to_go_on("loading", world);
  watchdog.loading();
  const std::int64_t last_that_stays = last_that_counts(config.checkpoint, origin);
  on_root(world, "check the outputs", [&] {
    check_train_outputs(config, inputs.gates, world.size(), inputs.corpora, last_that_stays);
  });
  Ranks ranks = arrange_ranks(config, world);
  const plan::Estimate estimate = plan::estimate(config, world.size(), inputs.gates);
  show_table(inputs, estimate, ranks);
  if (const std::string tasks = inputs.samples.tasks_text(); !tasks.empty()) {
    log::info("samples by task: " + tasks);
  }
  train::Session session{
      .config = config,
      .gates = inputs.gates,
      .mesh = ranks.mesh,
      .corpora = inputs.corpora,
      .samples = inputs.samples,
      .eval_corpora = inputs.eval_corpora,
      .eval_samples = inputs.eval_samples,
      .data = data,
      .catalog = catalog,
      .watchdog = watchdog,
      .origin = std::move(origin),
      .checkpoint_bytes = estimate.checkpoint_bytes,
      .on_begin = [&] { at_start([&] { begin_train_outputs(config, last_that_stays); }); }};
  set_up(session, world);
  const Exit code = train::run(session);
  session.instance.reset();
  if (code == Exit::kDone && config.checkpoint.exported != config::Export::kNone) {
    export_folder(config, world, watchdog);
  }
  log::print(
      fmt::format("trace: {}{}", config.trace.path,
                  config.checkpoint.dir.empty() ? "" : "  checkpoints: " + config.checkpoint.dir));
  ranks.mesh.close();
  return static_cast<int>(code);
}

}  // namespace moesaic::cli
