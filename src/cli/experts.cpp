#include <fmt/format.h>

#include <optional>

#include "base/io_error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gate_state.h"
#include "checkpoint/load_weights.h"
#include "checkpoint/manifest.h"
#include "cli/checkpoint_model.h"
#include "cli/job.h"
#include "cli/jobs.h"
#include "comm/stop.h"
#include "files/durable.h"
#include "files/run_lock.h"
#include "train/resume.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

struct Inputs {
  config::Config config;     // the checkpoint's, on the ranks of this job
  routing::GateState gates;  // after the change
  fs::path source, out;
  checkpoint::PoolChange change;
};

// The model and the seed are the checkpoint's, the ranks this job's. Moving values needs no copies
// of them in a narrow type.
config::Config config_of(checkpoint::ModelSource& source, config::Parsed parsed, int ranks) {
  const config::Config keys = parsed.config;
  parsed.config = train::config_of(source.checkpoint()->state());
  parsed.config.parallel = keys.parallel;
  parsed.config.run = keys.run;
  parsed.config.run.precision = DType::kF32;
  return config::checked(parsed, ranks);
}

// New experts have no place in a base, nor beside adapters.
void refuse_frozen(checkpoint::ModelSource& source) {
  const config::Config trained = train::config_of(source.checkpoint()->state());
  if (!trained.train.trainable.empty()) {
    throw Error(
        Exit::kUsage,
        fmt::format("{} was trained in part (train.trainable = {}): make a whole model of it "
                    "first (moesaic convert {} OUT --convert.to moesaic), and change that one",
                    source.path().string(), join(trained.train.trainable, ","),
                    source.path().string()));
  }
}

Inputs read_inputs(const config::Parsed& parsed, int ranks, checkpoint::Catalog& catalog) {
  if (parsed.arguments.size() != 3) {
    throw Error(Exit::kUsage,
                "experts takes three arguments: moesaic experts add|remove|clone|promote PATH OUT");
  }
  const auto request = config::pool_request(parsed.arguments[0], parsed.config.experts);
  checkpoint::ModelSource& source = catalog.model(parsed.arguments[1]);
  if (source.checkpoint() == nullptr) {
    throw Error(Exit::kUsage, fmt::format("{} is a Hugging Face folder: make a checkpoint of it "
                                          "first (moesaic convert)",
                                          source.path().string()));
  }
  refuse_quantized(source, "change");
  refuse_frozen(source);
  Inputs inputs{.config = config_of(source, parsed, ranks),
                .gates = {},
                .source = source.path(),
                .out = parsed.arguments[2],
                .change = {}};
  inputs.gates = checkpoint::gates_of(source, inputs.config);
  inputs.change = checkpoint::change_gates(source, {request}, inputs.config, inputs.gates);
  return inputs;
}

// Claims the folder that the checkpoint will be in.
files::RunLock claim_output(const fs::path& out, const checkpoint::CheckpointReader& checkpoint) {
  const fs::path target =
      checkpoint::checkpoint_folder(out, checkpoint.state().at("step").get<std::int64_t>());
  if (fs::exists(target)) {
    throw Error(Exit::kCannotCreate,
                fmt::format("{} exists: name another folder", target.string()));
  }
  files::make_folder(out);
  std::optional<files::RunLock> lock;
  at_start([&] { lock.emplace(files::RunLock::of_folder(out)); });
  return std::move(*lock);
}

// Writes the changed checkpoint. In its state only the expert pool changes.
fs::path save(const Inputs& inputs, const checkpoint::CheckpointReader& checkpoint,
              engine::Instance& instance, const std::function<void()>& on_progress) {
  Json state = checkpoint.state();
  state["pool"] = inputs.gates.pools;
  std::vector<fs::path> copy;
  for (const std::string& name : checkpoint.sidecar_files()) {
    copy.push_back(inputs.source / name);
  }
  const auto blocks = checkpoint::blocks_to_save(instance);
  return checkpoint::save_checkpoint({.dir = inputs.out,
                                      .step = state.at("step").get<std::int64_t>(),
                                      .state = state,
                                      .copy = copy,
                                      .on_progress = on_progress},
                                     blocks, instance.mesh.world);
}

}  // namespace

int experts(const config::Parsed& parsed, const comm::Communicator& world,
            comm::Watchdog& watchdog) {
  Inputs inputs;
  checkpoint::Catalog catalog;
  std::optional<files::RunLock> lock;  // on rank 0
  checkpoint::read_once(catalog, world, "read the checkpoint", [&] {
    inputs = read_inputs(parsed, world.size(), catalog);
    if (world.is_root()) {
      lock.emplace(claim_output(inputs.out, *catalog.model(parsed.arguments[1]).checkpoint()));
    }
  });
  checkpoint::ModelSource& source = catalog.model(parsed.arguments[1]);
  comm::check_same(facts_of(inputs.config, nullptr), world);
  comm::Mesh mesh = arrange_ranks(inputs.config, world).mesh;
  std::optional<engine::Instance> instance;
  world.together("change the experts", [&] {
    instance.emplace(inputs.config, mesh, engine::Use::kTraining, inputs.gates);
    checkpoint::load_parameters(*instance, source, checkpoint::Load::kAll,
                                comm::on_loading(watchdog), &inputs.change);
  });
  comm::agree_to_go_on("loading", world);
  watchdog.saving();
  const fs::path saved = save(inputs, *source.checkpoint(), *instance, [&] { watchdog.saving(); });
  log::print(table(inputs.change.rows()));
  log::print(fmt::format("checkpoint: {}", saved.string()));
  instance.reset();
  mesh.close();
  return 0;
}

}  // namespace moesaic::cli
