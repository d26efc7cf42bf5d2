#include "cli/inference.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/io_error.h"
#include "base/log.h"
#include "base/text.h"
#include "base/version.h"
#include "checkpoint/gate_state.h"
#include "cli/checkpoint_model.h"
#include "comm/launch.h"
#include "comm/stop.h"
#include "config/compare.h"
#include "config/validate.h"
#include "files/durable.h"

namespace moesaic::cli {

InferenceInputs read_model_and_corpora(const config::Parsed& parsed, int ranks,
                                       checkpoint::Catalog& catalog) {
  InferenceInputs inputs{.config = config::checked(adopt_model(parsed, catalog), ranks),
                         .gates = {},
                         .corpora = {},
                         .model = {}};
  checkpoint::ModelSource& source = catalog.model(inputs.config.model);
  inputs.gates = checkpoint::gates_of(source, inputs.config);
  inputs.corpora = data::Corpora::open(catalog.corpora(inputs.config.data.corpus));
  std::vector<std::string> tasks = source.tasks();
  inputs.corpora.join_tasks(tasks);
  check_vocabulary(source, inputs.corpora.info(0));
  inputs.model = source.text();
  return inputs;
}

std::string provenance(const config::Config& config, const data::Corpora& corpora,
                       const checkpoint::ModelSource& model, const std::string& job,
                       std::span<const std::string_view> free) {
  std::string text = fmt::format("moesaic {} {}\n", version(), git_hash());
  text += model.fingerprint() + "\n";
  for (std::int64_t shard = 0; shard < corpora.shards(); ++shard) {
    const data::ShardInfo& info = corpora.shard_info(shard);
    text += fmt::format("{} {}\n", info.file.filename().string(),
                        info.sha256.empty() ? files::sha256_of_file(info.file) : info.sha256);
  }
  for (const auto& [key, value] : config::flatten(config)) {
    const bool counts = key.starts_with(job + ".") || key.starts_with("router.") ||
                        key == "run.precision" || key == "run.quantize" ||
                        key == "run.deterministic";
    if (counts && std::find(free.begin(), free.end(), key) == free.end()) {
      text += fmt::format("{} = {}\n", key, value);
    }
  }
  return text;
}

void agree_on_inputs(const comm::Facts& facts, std::string& fingerprint,
                     const comm::Communicator& world, comm::Watchdog& watchdog) {
  comm::agree_to_go_on("loading", world);
  comm::check_same(facts, world);
  world.broadcast(fingerprint, 0);
  watchdog.loading();
}

bool is_done_or_claim(const comm::Communicator& world, const std::function<bool()>& is_done,
                      const std::function<void()>& claim) {
  std::int64_t done = 0;
  on_root(world, "create the output", [&] {
    if (is_done()) {
      done = 1;
    } else {
      at_start(claim);
    }
  });
  world.broadcast(std::span<std::int64_t>(&done, 1), 0);
  return done != 0;
}

void show_start(const Ranks& ranks, std::vector<std::vector<std::string>> rows,
                const config::Config& config) {
  log::print(table(ranks.mesh.layout.rows()));
  rows.push_back({"placement", ranks.placement});
  rows.push_back({"mpi", comm::mpi_text()});
  rows.push_back({"trace", config.trace.path});
  log::print(table(rows));
}

void set_up(std::optional<engine::Instance>& instance, const config::Config& config,
            const routing::GateState& gates, const comm::Mesh& mesh, checkpoint::Catalog& catalog,
            comm::Watchdog& watchdog, engine::Use use) {
  mesh.world.together("set up the model", [&] {
    checkpoint::ModelSource& source = catalog.model(config.model);
    check_folder(source, mesh.world);
    load_model(instance, config, gates, mesh, use, source, watchdog);
  });
}

}  // namespace moesaic::cli
