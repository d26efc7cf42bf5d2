#pragma once

#include <cstdint>
#include <string>

#include "config/config.h"

namespace moesaic::config {

/// Whether the routing of a step is recorded.
bool records_routing(const Trace& trace, std::int64_t step);
/// How many steps of 1 .. steps are; those that two ranges name may count twice.
std::int64_t routing_steps(const Trace& trace, std::int64_t steps);
/// STEM.routing.h5 beside the trace.
std::string routing_path(const Trace& trace);

}  // namespace moesaic::config
