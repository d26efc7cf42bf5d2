#include "checkpoint/gate_state.h"

#include <fmt/format.h>

#include "base/error.h"
#include "config/layers.h"

namespace moesaic::checkpoint {
namespace {

// The measured loads of each MoE layer; empty: the checkpoint is older than they are.
std::vector<std::vector<float>> loads_of(ModelSource& source, const config::Model& model) {
  std::vector<std::vector<float>> loads;
  for (const std::int64_t layer : config::moe_layers(model)) {
    const std::string name = fmt::format("model.layers.{}.mlp.gate.load", layer);
    const auto shape = source.shape(name);
    if (!shape) {
      return {};
    }
    loads.emplace_back(static_cast<std::size_t>(shape->front()));
    source.read(name, {0}, *shape, loads.back());
  }
  return loads;
}

void check_enough(const ModelSource& source, const config::Config& config,
                  const routing::GateState& gates) {
  const std::int64_t ranks = config::expert_ranks(config.parallel);
  for (const std::string& expert_pool : gates.pools) {
    const std::int64_t regular = routing::count_of(expert_pool, 'r');
    if (regular < ranks) {
      throw Error(Exit::kUsage,
                  fmt::format("{}: a layer has {} regular experts, fewer than the {} ranks that "
                              "share them out: use a smaller parallel.ep",
                              source.path().string(), regular, ranks));
    }
  }
}

}  // namespace

routing::GateState gates_of(ModelSource& source, const config::Config& config) {
  routing::GateState gates{.pools = source.pool()};
  const std::size_t layers = config::moe_layers(config.model).size();
  if (!gates.pools.empty() && gates.pools.size() != layers) {
    throw Error(Exit::kMismatch, fmt::format("{} has {} layers with experts, this model has {}",
                                             source.path().string(), gates.pools.size(), layers));
  }
  if (config.parallel.placement == config::Placing::kLoad) {
    gates.loads = loads_of(source, config.model);
  }
  check_enough(source, config, gates);
  const std::vector<std::string> tasks = source.tasks();
  gates.tasks.assign(tasks.begin() + 1, tasks.end());
  return gates;
}

PoolChange change_gates(ModelSource& source, const std::vector<config::PoolRequest>& requests,
                        const config::Config& config, routing::GateState& gates) {
  const std::vector<std::vector<float>> loads = loads_of(source, config.model);
  for (const config::PoolRequest& request : requests) {
    const bool by_load = request.action != config::PoolAction::kAdd && request.experts.empty();
    if (loads.empty() && by_load) {
      throw Error(Exit::kUsage,
                  fmt::format("{} has no measured loads: name the experts in experts.source",
                              source.path().string()));
    }
  }
  PoolChange change = change_pools(config, gates, requests, loads);
  adopt(change, config, gates);
  return change;
}

}  // namespace moesaic::checkpoint
