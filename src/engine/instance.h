#pragma once

#include <array>
#include <memory>

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
  /// The config must be resolved, vocab_size included. The mesh must outlive it.
  Instance(const config::Config& config, const comm::Mesh& mesh, Use use);
  ~Instance();

  /// The group that sums a gradient.
  comm::Collectives& group_of(model::SumOver sum);
  /// All groups, in the order of their names.
  std::array<const comm::Collectives*, 8> groups() const;
  static constexpr std::array<const char*, 8> kGroupNames = {"tp",       "experts", "pp",   "dp",
                                                             "replicas", "stage",   "ends", "kv"};
  model::Context context() { return context(clock); }
  model::Context context(PhaseClock& booked_on);

  const comm::Mesh& mesh;
  const model::Placement placement;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<comm::Collectives> tp, experts, dp, replicas, stage, kv_replicas, ends, pp;
  PhaseClock clock;
  model::Parameters parameters;
  model::Transformer transformer;

 private:
  DType compute_;
  bool recompute_;
};

}  // namespace moesaic::engine
