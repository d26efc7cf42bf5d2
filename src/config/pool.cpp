#include "config/pool.h"

#include <algorithm>

namespace moesaic::config {

std::string expert_pool_of(const Model& model, const Router& router, std::int64_t moe_layer) {
  if (!model.pool.empty()) {
    return model.pool.at(static_cast<std::size_t>(moe_layer));
  }
  return std::string(static_cast<std::size_t>(model.experts), 'r') +
         std::string(static_cast<std::size_t>(router.spare_experts), 's');
}

std::int64_t expert_numbers(const Model& model, const Router& router) {
  return model.pool.empty() ? model.experts + router.spare_experts : std::ssize(model.pool.front());
}

std::int64_t expert_ranks(const Parallel& parallel) {
  return parallel.ep * (parallel.expert_tp == 1 ? parallel.tp : 1);
}

std::int64_t count_of(const std::string& expert_pool, char kind) {
  return std::count(expert_pool.begin(), expert_pool.end(), kind);
}

}  // namespace moesaic::config
