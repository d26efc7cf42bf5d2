#include "cli/experts.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "cli/checkpoint_model.h"
#include "cli/facts.h"
#include "cli/threads.h"
#include "io/checkpoint.h"
#include "io/checkpoint_manifest.h"
#include "model/storage.h"
#include "train/resume.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

struct Inputs {
  config::Config config;  // the checkpoint's, on the ranks of this job, with the new pool
  fs::path source, out;
  model::PoolChange change;
};

// The model and the seed are the checkpoint's, the ranks this job's. Moving values needs no copies
// of them in a narrow type.
config::Config config_of(io::ModelSource& source, config::Parsed parsed, int ranks) {
  const config::Config keys = parsed.config;
  parsed.config = train::config_of(source.checkpoint()->state());
  parsed.config.parallel = keys.parallel;
  parsed.config.run = keys.run;
  parsed.config.run.precision = config::Precision::kFp32;
  adopt_tasks(source.tasks(), parsed.config);
  return config::checked(parsed, ranks);
}

Inputs read_inputs(const config::Parsed& parsed, int ranks) {
  if (parsed.arguments.size() != 3) {
    throw Error(Exit::kUsage,
                "experts takes three arguments: moesaic experts add|remove|clone|promote PATH OUT");
  }
  const auto request = config::pool_request(parsed.arguments[0], parsed.config.experts);
  auto source = io::ModelSource::open(parsed.arguments[1]);
  if (source.checkpoint() == nullptr) {
    throw Error(Exit::kUsage, fmt::format("{} is a Hugging Face folder: make a checkpoint of it "
                                          "first (moesaic convert)",
                                          source.path().string()));
  }
  refuse_quantized(source, "change");
  Inputs inputs{.config = config_of(source, parsed, ranks),
                .source = source.path(),
                .out = parsed.arguments[2],
                .change = {}};
  adopt_pool(source, inputs.config);
  inputs.change = adopt_change(source, {request}, inputs.config);
  const fs::path target =
      io::checkpoint_folder(inputs.out, source.checkpoint()->state().at("step"));
  if (fs::exists(target)) {
    throw Error(Exit::kCannotCreate,
                fmt::format("{} exists: name another folder", target.string()));
  }
  return inputs;
}

// Of the state nothing changes but the pool.
fs::path save(const Inputs& inputs, model::Instance& instance,
              const std::function<void()>& on_progress) {
  const auto checkpoint = io::CheckpointReader::open(inputs.source);
  nlohmann::json state = checkpoint.state();
  state["pool"] = inputs.config.model.pool;
  std::vector<fs::path> copy;
  for (const auto& [name, file] : io::read_manifest(inputs.source).files) {
    copy.push_back(inputs.source / name);
  }
  const auto blocks = model::blocks_to_save(instance);
  return io::save_checkpoint({.dir = inputs.out,
                              .step = state.at("step"),
                              .state = state,
                              .copy = copy,
                              .on_progress = on_progress},
                             blocks, instance.mesh.world);
}

}  // namespace

int experts(const config::Parsed& parsed, const comm::Communicator& world,
            comm::Watchdog& watchdog) {
  Inputs inputs;
  comm::Facts facts;
  world.together("read the checkpoint", [&] {
    inputs = read_inputs(parsed, world.size());
    facts = facts_of(inputs.config);
    facts.push_back(fact_of_model(inputs.source));
  });
  comm::check_same(facts, world);
  comm::Mesh mesh = model::make_mesh(inputs.config, world.ledger());
  inputs.config.run.threads = choose_threads(inputs.config.run, mesh.node).count;
  std::optional<model::Instance> instance;
  world.together("change the experts", [&] {
    instance.emplace(inputs.config, mesh, model::Use::kTraining);
    auto source = io::ModelSource::open(inputs.source);
    model::load_parameters(
        *instance, source, model::Load::kAll, [&] { watchdog.loading(); }, &inputs.change);
  });
  watchdog.saving();
  const fs::path saved = save(inputs, *instance, [&] { watchdog.saving(); });
  log::print(table(inputs.change.rows()));
  log::print(fmt::format("checkpoint: {}", saved.string()));
  instance.reset();
  mesh.close();
  return 0;
}

}  // namespace moesaic::cli
