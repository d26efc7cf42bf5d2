#pragma once

#include <string>
#include <vector>

#include "checkpoint/calibration.h"
#include "checkpoint/catalog.h"
#include "comm/mesh.h"
#include "comm/watchdog.h"
#include "config/config.h"
#include "data/corpora.h"

namespace moesaic::cli {

/// The corpora of convert.calibration; none: of no shards. kBadData if their vocabulary is not the
/// model's.
data::Corpora open_calibration(const config::Config& config, checkpoint::ModelSource& model,
                               const std::vector<std::string>& tasks, checkpoint::Catalog& catalog);

/// What the weights of products read while the model reads pieces from all over the corpora, as
/// many as give an expert about a thousand tokens. Warns of experts that met few. Collective over
/// the mesh.
checkpoint::Calibration calibrate(const config::Config& config, const routing::GateState& gates,
                                  checkpoint::ModelSource& model, data::Corpora& corpora,
                                  const comm::Mesh& mesh, comm::Watchdog& watchdog);

}  // namespace moesaic::cli
