#include "engine/data_plane.h"

namespace moesaic::engine {

comm::MakeCollectives data_plane(const config::Run& run, Backend& backend, const comm::Mesh& mesh) {
  if (run.device == config::Device::kCpu) {
    return [&backend](const auto& group) { return comm::make_mpi_collectives(backend, group); };
  }
  if (run.collectives == config::CollectivesBy::kNccl) {
    return comm::make_nccl_collectives(backend, mesh.world);
  }
  return [&backend](const auto& group) { return comm::make_staged_collectives(backend, group); };
}

}  // namespace moesaic::engine
