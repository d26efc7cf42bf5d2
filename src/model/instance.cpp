#include "model/instance.h"

namespace moesaic::model {
namespace {

std::unique_ptr<Backend> make_backend(const config::Run& run) {
  return run.device == config::Device::kCuda ? make_cuda_backend(0)
                                             : make_cpu_backend(static_cast<int>(run.threads));
}

std::unique_ptr<comm::Collectives> make_collectives(const config::Run& run,
                                                    const comm::Communicator& group) {
  return run.device == config::Device::kCuda ? comm::make_nccl_collectives(group)
                                             : comm::make_mpi_collectives(group);
}

}  // namespace

Instance::Instance(const config::Config& config, const comm::Mesh& the_mesh, bool training)
    : mesh(the_mesh),
      backend(make_backend(config.run)),
      ep(make_collectives(config.run, mesh.ep)),
      dp(make_collectives(config.run, mesh.dp)),
      replicas(make_collectives(config.run, mesh.replicas)),
      transformer(parameters, config.model, config.router, mesh.ep.rank(), mesh.ep.size()),
      compute_(config.run.precision == config::Precision::kBf16 ? DType::kBf16 : DType::kF32) {
  parameters.allocate(*backend, compute_, training);
}

Context Instance::context(PhaseClock& booked_on) {
  return {.backend = *backend, .ep = *ep, .clock = booked_on, .compute = compute_, .batch = {}};
}

}  // namespace moesaic::model
