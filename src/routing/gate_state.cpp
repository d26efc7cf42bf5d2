#include "routing/gate_state.h"

#include <algorithm>

namespace moesaic::routing {

std::string expert_pool_of(const config::Model& model, const config::Router& router,
                           const GateState& gates, std::int64_t moe_layer) {
  if (!gates.pools.empty()) {
    return gates.pools.at(static_cast<std::size_t>(moe_layer));
  }
  return std::string(static_cast<std::size_t>(model.experts), 'r') +
         std::string(static_cast<std::size_t>(router.spare_experts), 's');
}

std::int64_t expert_numbers(const config::Model& model, const config::Router& router,
                            const GateState& gates) {
  return gates.pools.empty() ? model.experts + router.spare_experts
                             : std::ssize(gates.pools.front());
}

std::int64_t count_of(const std::string& expert_pool, char kind) {
  return std::count(expert_pool.begin(), expert_pool.end(), kind);
}

}  // namespace moesaic::routing
