#pragma once

#include <vector>

#include "model/observers.h"
#include "routing/routed_rows.h"

namespace moesaic::model {

/// Adds the routing of each MoE layer and micro-batch to a list, on the first rank of tp and
/// cp. The weights are those of the experts that compute.
Observer routing_recorder(std::vector<routing::RoutedRows>& routed);

}  // namespace moesaic::model
