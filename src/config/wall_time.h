#pragma once

#include "config/config.h"

namespace moesaic::config {

/// Seconds until run.max_wall's end: its value, or with `auto` until SLURM_JOB_END_TIME; negative:
/// no limit.
double wall_seconds(const Run& run);

}  // namespace moesaic::config
