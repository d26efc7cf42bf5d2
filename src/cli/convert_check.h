#pragma once

#include "cli/convert_write.h"
#include "comm/mesh.h"
#include "comm/watchdog.h"

namespace moesaic::cli {

/// Lets both models compute the same few tokens. Throws kMismatch if their log-probabilities differ
/// by more than what was stored explains; a copy that differs or cannot be read is removed. One
/// that could not be compared stays, unless the job is to stop. Collective over the mesh.
void check_copy(const ConvertInputs& inputs, checkpoint::ModelSource& source,
                const std::filesystem::path& made, const comm::Mesh& mesh,
                comm::Watchdog& watchdog);

}  // namespace moesaic::cli
