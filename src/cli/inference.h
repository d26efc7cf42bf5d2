#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "checkpoint/catalog.h"
#include "comm/handshake.h"
#include "comm/mesh.h"
#include "comm/watchdog.h"
#include "data/score_corpora.h"
#include "engine/instance.h"

// What the jobs score and generate have in common.
namespace moesaic::cli {

/// What all ranks must see alike: keys and model.
comm::Facts facts_of(const config::Config& config, checkpoint::Catalog& catalog);

/// A text that names all that a result depends on: program, model, shards, and the keys that
/// counts() says. It reads bare shards, which have no sums.
std::string provenance(const config::Config& config, const data::ScoreCorpora& corpora,
                       const checkpoint::ModelSource& model,
                       const std::function<bool(std::string_view key)>& counts);

/// The model of model.path, ready to compute. Collective over world.
void set_up(std::optional<engine::Instance>& instance, const config::Config& config,
            const comm::Mesh& mesh, checkpoint::Catalog& catalog, comm::Watchdog& watchdog,
            engine::Use use);

}  // namespace moesaic::cli
