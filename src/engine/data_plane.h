#pragma once

#include "comm/collectives.h"
#include "comm/mesh.h"
#include "config/config.h"

namespace moesaic::engine {

/// What run.device and run.collectives ask for. Collective over the world, which must outlive what
/// it makes, as the backend must.
comm::MakeCollectives data_plane(const config::Run& run, Backend& backend, const comm::Mesh& mesh);

}  // namespace moesaic::engine
