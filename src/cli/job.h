#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/model_source.h"
#include "comm/handshake.h"
#include "comm/mesh.h"
#include "comm/watchdog.h"
#include "config/options.h"
#include "engine/instance.h"
#include "files/disk_space.h"
#include "files/run_lock.h"

// What jobs have in common, in the order of a job: it reads its inputs (checkpoint::read_once) and
// compares them over the ranks (comm::check_same); rank 0 claims the outputs and checks that they
// fit; the ranks are arranged and load the model; the job computes, and rank 0 finishes the
// outputs.
namespace moesaic::cli {

/// Runs the step on rank 0 alone. Collective over world: throws as Communicator::together.
void on_root(const comm::Communicator& world, std::string_view what,
             const std::function<void()>& step);

// Inputs.

/// What must be the same on all ranks (comm::check_same): the program, the job and its keys as they
/// were given.
comm::Facts facts_of(const config::Parsed& parsed);
/// Every key of a resolved config, and the model, if there is one.
comm::Facts facts_of(const config::Config& config, const checkpoint::ModelSource* source);
/// A Hugging Face folder as this rank's file system shows it; of a checkpoint every block that is
/// read is compared with the manifest, which all ranks have from rank 0.
comm::Facts::value_type fact_of(const checkpoint::ModelSource& source);

// Outputs, on rank 0.

/// Makes these folders (empty paths are left out) and keeps other jobs away from them and from the
/// trace, as long as the locks live. kCannotCreate.
std::vector<files::RunLock> lock_outputs(const std::vector<std::filesystem::path>& folders,
                                         const std::filesystem::path& trace);
/// What an output of so many bytes will take besides what is there of it already.
files::SpaceNeed space_need(std::string what, const std::filesystem::path& place, double bytes);
/// About the space of a trace of so many rows, with these numbers of task and corpus names.
files::SpaceNeed trace_need(const config::Config& config, const routing::GateState& gates,
                            int ranks, std::size_t tasks, std::size_t corpora, std::int64_t rows);
/// Writes the config into run.dir under this name (empty: not), and from now on the log. It makes
/// the folder; nothing where run.dir is not set.
void begin_run_dir(const config::Config& config, const std::string& name);

// Ranks and model.

/// The ranks along the axes, and their threads.
struct Ranks {
  comm::Mesh mesh;
  std::string placement;  // Threads::placement
};
/// Sets config.run.threads as well. Collective over world.
Ranks arrange_ranks(config::Config& config, const comm::Communicator& world);

/// The model with the values of the source. Not collective.
void load_model(std::optional<engine::Instance>& instance, const config::Config& config,
                const routing::GateState& gates, const comm::Mesh& mesh, engine::Use use,
                checkpoint::ModelSource& source, comm::Watchdog& watchdog);

}  // namespace moesaic::cli
