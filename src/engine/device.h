#pragma once

#include <memory>

#include "backend/backend.h"
#include "comm/mesh.h"
#include "config/config.h"

namespace moesaic::engine {

/// The backend of run.device: ranks of a host take its GPUs in turn. Collective over the world.
/// Throws on all ranks, before anything is allocated: kUsage where there is no GPU, or one for two
/// ranks that need their own; kMismatch if the GPUs cannot compute the same.
std::unique_ptr<Backend> make_backend(const config::Run& run, const comm::Mesh& mesh);

}  // namespace moesaic::engine
