#pragma once

#include "config/config.h"

namespace moesaic::cli {

/// About the bytes of a trace of so many rows, with these numbers of task and corpus names.
double trace_size(const config::Config& config, int ranks, std::size_t tasks, std::size_t corpora,
                  std::int64_t rows);

/// Bytes of the routing record of one step.
double routing_size(const config::Config& config);

}  // namespace moesaic::cli
