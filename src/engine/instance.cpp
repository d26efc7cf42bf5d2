#include "engine/instance.h"

#include <map>

#include "base/share.h"
#include "engine/data_plane.h"
#include "engine/device.h"
#include "model/trainable.h"

namespace moesaic::engine {
namespace {

// How weights are kept while nothing is trained; nothing: in the compute dtype.
std::optional<DType> packed_format(const Backend& backend, DType compute,
                                   std::optional<DType> quantize, Use use) {
  if (quantize && use != Use::kTraining) {
    return quantize;
  }
  return use == Use::kFewRows ? backend.inference_format(compute) : std::nullopt;
}

model::Placement make_placement(const config::Parallel& parallel, const comm::Mesh& mesh) {
  const bool folded = parallel.expert_tp == 1;
  const comm::Communicator& sharing = folded ? mesh[comm::Group::kEpTp] : mesh[comm::Group::kEp];
  return {.tp_rank = mesh[comm::Group::kTp].rank(),
          .tp = mesh[comm::Group::kTp].size(),
          .expert_rank = sharing.rank(),
          .expert_ranks = sharing.size(),
          .folded = folded,
          .sequence = parallel.sequence && mesh[comm::Group::kTp].size() > 1,
          .stage = mesh[comm::Group::kPp].rank(),
          .stages = mesh[comm::Group::kPp].size(),
          .chunks = static_cast<int>(parallel.virtual_stages)};
}

}  // namespace

comm::Mesh make_mesh(const config::Config& config, comm::Ledger* ledger) {
  const config::Parallel& parallel = config.parallel;
  return comm::Mesh::make(
      {.tp = static_cast<int>(parallel.tp),
       .pp = static_cast<int>(parallel.pp),
       .ep = static_cast<int>(parallel.ep),
       .cp = static_cast<int>(parallel.cp),
       .kv_copies = static_cast<int>(kv_copies(config.model.kv_heads, parallel.tp))},
      ledger);
}

Instance::Instance(const config::Config& config, const comm::Mesh& the_mesh, Use use,
                   const routing::GateState& gates)
    : mesh(the_mesh),
      placement(make_placement(config.parallel, mesh)),
      backend(make_backend(config.run, mesh)),
      parameters(use == Use::kTraining ? model::tuning_of(config, gates) : model::Tuning::none()),
      transformer(parameters, config.model, config.router, placement, gates),
      compute_(config.run.precision),
      recompute_(config.train.recompute) {
  const auto make_collectives = data_plane(config.run, *backend, mesh);
  for (const comm::Group group : comm::kTracedGroups) {
    const bool folded = group == comm::Group::kEp && placement.folded;
    collectives_[comm::index_of(group)] =
        make_collectives(mesh[folded ? comm::Group::kEpTp : group]);
  }
  std::map<model::SumOver, model::Owner> owners;
  for (const model::SumOver sum : model::kAllSums) {
    const comm::Communicator& group = group_of(sum).group();
    owners[sum] =
        config.parallel.zero > 0 ? model::Owner{group.rank(), group.size()} : model::Owner{};
  }
  parameters.allocate(*backend,
                      {.compute = compute_,
                       .moments = config.train.moments,
                       .pack = packed_format(*backend, compute_, config.run.quantize, use)},
                      owners);
}

comm::Collectives& Instance::group_of(model::SumOver sum) const {
  switch (sum) {
    case model::SumOver::kReplicas:
      return (*this)[comm::Group::kReplicas];
    case model::SumOver::kStage:
      return (*this)[comm::Group::kStage];
    case model::SumOver::kExpertStage:
      return (*this)[comm::Group::kExpertStage];
    case model::SumOver::kExpertReplicas:
      break;
  }
  return (*this)[comm::Group::kDp];
}

std::vector<double> Instance::bytes_sent() const {
  std::vector<double> sent;
  sent.reserve(comm::kTracedGroups.size());
  for (const comm::Group group : comm::kTracedGroups) {
    sent.push_back((*this)[group].bytes_sent());
  }
  return sent;
}

Instance::~Instance() = default;

model::Context Instance::context(PhaseClock& booked_on) {
  return {{.backend = *backend,
           .tp = (*this)[comm::Group::kTp],
           .cp = (*this)[comm::Group::kCp],
           .experts = experts(),
           .clock = booked_on,
           .compute = compute_,
           .sequence = placement.sequence,
           .counts = mesh.counts()},
          {.recompute = recompute_}};
}

}  // namespace moesaic::engine
