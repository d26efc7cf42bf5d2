#pragma once

#include <cstdint>

#include "engine/instance.h"
#include "model/moe_stats.h"

namespace moesaic::train {

/// What the routers keep of a step's choices, where this rank has them: the bias that evens out the
/// loads without a loss (DeepSeek-V3, section 2.1.2), changed by bias_rate; the mean load; the load
/// of the step before. stats: summed over all ranks.
void update_routers(engine::Instance& instance, model::MoeStats& stats, double bias_rate,
                    std::int64_t step);

}  // namespace moesaic::train
