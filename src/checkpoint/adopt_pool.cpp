#include "checkpoint/adopt_pool.h"

#include <fmt/format.h>

#include "base/error.h"
#include "config/layers.h"
#include "config/pool.h"

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

void check_enough(const ModelSource& source, const config::Config& config) {
  const std::int64_t ranks = config::expert_ranks(config.parallel);
  for (const std::string& expert_pool : config.model.pool) {
    const std::int64_t regular = config::count_of(expert_pool, 'r');
    if (regular < ranks) {
      throw Error(Exit::kUsage,
                  fmt::format("{}: a layer has {} regular experts, fewer than the {} ranks that "
                              "share them out: use a smaller parallel.ep",
                              source.path().string(), regular, ranks));
    }
  }
}

}  // namespace

void adopt_pool(ModelSource& source, config::Config& config) {
  config.model.pool = source.pool();
  const std::size_t layers = config::moe_layers(config.model).size();
  if (!config.model.pool.empty() && config.model.pool.size() != layers) {
    throw Error(Exit::kMismatch,
                fmt::format("{} has {} layers with experts, this model has {}",
                            source.path().string(), config.model.pool.size(), layers));
  }
  config.model.load.clear();
  if (config.parallel.placement == config::Placing::kLoad) {
    config.model.load = loads_of(source, config.model);
  }
  check_enough(source, config);
}

PoolChange adopt_change(ModelSource& source, const std::vector<config::PoolRequest>& requests,
                        config::Config& config) {
  const std::vector<std::vector<float>> loads = loads_of(source, config.model);
  for (const config::PoolRequest& request : requests) {
    const bool by_load = request.action != config::PoolAction::kAdd && request.experts.empty();
    if (loads.empty() && by_load) {
      throw Error(Exit::kUsage,
                  fmt::format("{} has no measured loads: name the experts in experts.source",
                              source.path().string()));
    }
  }
  PoolChange change = change_pools(config, requests, loads);
  adopt(change, config);
  return change;
}

}  // namespace moesaic::checkpoint
