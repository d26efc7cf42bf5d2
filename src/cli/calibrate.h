#pragma once

#include <string>
#include <vector>

#include "comm/mesh.h"
#include "comm/watchdog.h"
#include "config/config.h"
#include "infer/score_corpora.h"
#include "io/catalog.h"
#include "model/calibration.h"

namespace moesaic::cli {

/// The corpora of convert.calibration; none: of no shards. kBadData if their vocabulary is not the
/// model's.
infer::ScoreCorpora open_calibration(const config::Config& config, io::ModelSource& model,
                                     const std::vector<std::string>& tasks, io::Catalog& catalog);

/// What the weights of products read while the model reads pieces from all over the corpora, as
/// many as give an expert about a thousand tokens. Warns of experts that met few. Collective over
/// the mesh.
model::Calibration calibrate(const config::Config& config, io::ModelSource& model,
                             infer::ScoreCorpora& corpora, const comm::Mesh& mesh,
                             comm::Watchdog& watchdog);

}  // namespace moesaic::cli
