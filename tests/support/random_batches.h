#pragma once

#include <cstdint>

#include "data/batches.h"

namespace moesaic::testing {

/// A step's micro-batches of random tokens and targets; each row is one document. A function of the
/// config and `seed`.
data::StepBatches random_batches(const config::Config& config, std::int64_t seed);

}  // namespace moesaic::testing
