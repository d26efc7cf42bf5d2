#pragma once

#include <array>
#include <memory>
#include <vector>

#include "comm/collectives.h"
#include "comm/mesh.h"
#include "config/config.h"
#include "model/transformer.h"

namespace moesaic::engine {

/// The mesh of parallel.* (resolved), recorded in the ledger if there is one. Collective over the
/// world.
comm::Mesh make_mesh(const config::Config& config, comm::Ledger* ledger = nullptr);

/// What a model is for: training, or products of many rows, or of few, so that reading the weights
/// takes the time.
enum class Use { kTraining, kManyRows, kFewRows };

/// A model on this rank: its device, its share of the parameters, and the groups it talks to.
class Instance {
 public:
  /// The config must be resolved, vocab_size included. The mesh must outlive it. gates: as the
  /// checkpoint has them that gives the values, else empty.
  Instance(const config::Config& config, const comm::Mesh& mesh, Use use,
           const routing::GateState& gates = {});
  ~Instance();

  /// One of comm::kTracedGroups.
  comm::Collectives& operator[](comm::Group group) const {
    return *collectives_[comm::index_of(group)];
  }
  /// The ranks that share out whole experts, along ep or ep x tp.
  comm::Collectives& experts() const { return (*this)[comm::Group::kEp]; }
  /// The group that sums a gradient.
  comm::Collectives& group_of(model::SumOver sum) const;
  /// Bytes sent so far in each of comm::kTracedGroups.
  std::vector<double> bytes_sent() const;
  model::Context context() { return context(clock); }
  model::Context context(PhaseClock& booked_on);

  const comm::Mesh& mesh;
  const model::Placement placement;
  std::unique_ptr<Backend> backend;
  PhaseClock clock{backend.get()};
  model::Parameters parameters;
  model::Transformer transformer;

 private:
  std::array<std::unique_ptr<comm::Collectives>, comm::kGroupCount> collectives_;
  DType compute_;
  bool recompute_;
};

}  // namespace moesaic::engine
