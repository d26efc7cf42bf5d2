#pragma once

#include "config/config.h"

namespace moesaic::config {

/// Seconds from now until run.max_wall's end, which is counted from the start of the program, or
/// with `auto` until SLURM_JOB_END_TIME; negative: no limit.
double wall_seconds(const Run& run);

}  // namespace moesaic::config
