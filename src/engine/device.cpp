#include "engine/device.h"

#include <fmt/format.h>
#include <omp.h>

#include "backend/gpus.h"
#include "comm/collectives.h"
#include "comm/handshake.h"
#include "comm/own_gpus.h"

namespace moesaic::engine {

std::unique_ptr<Backend> make_backend(const config::Run& run, const comm::Mesh& mesh) {
  if (run.device == config::Device::kCpu) {
    return make_cpu_backend(static_cast<int>(run.threads), !run.deterministic);
  }
  const bool nccl = run.collectives == config::CollectivesBy::kNccl;
  int device = 0;
  Gpu gpu;
  mesh.world.together("the choice of GPUs", [&] {
    device = comm::gpu_of_rank(mesh.node.rank(), visible_gpus());
    gpu = gpu_facts(device);
  });
  comm::check_same({{"compute capability", fmt::format("{}.{}", gpu.major, gpu.minor)},
                    {"NCCL", nccl ? comm::nccl_version() : std::string()}},
                   mesh.world);
  if (nccl && !comm::nccl_shares_gpus()) {
    comm::check_own_gpus(gpu.uuid, mesh.world);
  }
  omp_set_num_threads(static_cast<int>(run.threads));  // of what the host computes
  return make_cuda_backend(device);
}

}  // namespace moesaic::engine
