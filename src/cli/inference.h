#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "comm/handshake.h"
#include "comm/mesh.h"
#include "comm/watchdog.h"
#include "infer/score_corpora.h"
#include "io/catalog.h"
#include "model/instance.h"

// What the jobs score and generate have in common.
namespace moesaic::cli {

/// What all ranks must see alike: keys and model.
comm::Facts facts_of(const config::Config& config, io::Catalog& catalog);

/// A text that names all that a result depends on: program, model, shards, and the keys that
/// counts() says. It reads bare shards, which have no sums.
std::string provenance(const config::Config& config, const infer::ScoreCorpora& corpora,
                       const io::ModelSource& model,
                       const std::function<bool(std::string_view key)>& counts);

/// The model of model.path, ready to compute. Collective over world.
void set_up(std::optional<model::Instance>& instance, const config::Config& config,
            const comm::Mesh& mesh, io::Catalog& catalog, comm::Watchdog& watchdog, model::Use use);

}  // namespace moesaic::cli
