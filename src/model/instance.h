#pragma once

#include <memory>

#include "comm/collectives.h"
#include "comm/mesh.h"
#include "config/config.h"
#include "model/transformer.h"

namespace moesaic::model {

/// A model on this rank: its device, its share of the parameters, and the groups it talks to.
class Instance {
 public:
  /// The config must be resolved, vocab_size included. The mesh must outlive it.
  Instance(const config::Config& config, const comm::Mesh& mesh, bool training);

  Context context() { return context(clock); }
  Context context(PhaseClock& booked_on);

  const comm::Mesh& mesh;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<comm::Collectives> ep, dp, replicas;
  PhaseClock clock;
  Parameters parameters;
  Transformer transformer;

 private:
  DType compute_;
};

}  // namespace moesaic::model
