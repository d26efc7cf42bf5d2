#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/catalog.h"
#include "cli/job.h"
#include "data/corpora.h"

// What the jobs score and generate have in common.
namespace moesaic::cli {

/// What both read, checked on every rank.
struct InferenceInputs {
  config::Config config;  // resolved
  routing::GateState gates;
  data::Corpora corpora;  // of data.corpus
  std::string model;      // of model.path: path and step
};
InferenceInputs read_model_and_corpora(const config::Parsed& parsed, int ranks,
                                       checkpoint::Catalog& catalog);

/// A text that names all that a result depends on: program, model, shards, and the keys of the
/// router, of precision, and of the job (as "score"), but for those that are free. It reads bare
/// shards, which have no sums.
std::string provenance(const config::Config& config, const data::Corpora& corpora,
                       const checkpoint::ModelSource& model, const std::string& job,
                       std::span<const std::string_view> free);

/// Collective over world: throws unless all ranks go on with the same facts. fingerprint: rank 0's,
/// on all ranks.
void agree_on_inputs(const comm::Facts& facts, std::string& fingerprint,
                     const comm::Communicator& world, comm::Watchdog& watchdog);

/// Collective over world: whether the result is there already, as is_done says on rank 0. If not,
/// rank 0 claims the outputs.
bool is_done_or_claim(const comm::Communicator& world, const std::function<bool()>& is_done,
                      const std::function<void()>& claim);

/// Prints how the ranks lie, then these rows and those that are common to both jobs.
void show_start(const Ranks& ranks, std::vector<std::vector<std::string>> rows,
                const config::Config& config);

/// The model of model.path, ready to compute. Collective over world.
void set_up(std::optional<engine::Instance>& instance, const config::Config& config,
            const routing::GateState& gates, const comm::Mesh& mesh, checkpoint::Catalog& catalog,
            comm::Watchdog& watchdog, engine::Use use);

}  // namespace moesaic::cli
