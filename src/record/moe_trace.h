#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/phase_clock.h"
#include "comm/mesh.h"
#include "config/config.h"
#include "engine/instance.h"
#include "model/moe_stats.h"
#include "record/trace.h"
#include "routing/expert_pool.h"

namespace moesaic::record {

/// The MoE columns of a row. summed: over all micro-batches of the step and all ranks; tokens:
/// routed positions of the step; expert pools: of each MoE layer.
void fill_moe(TraceRow& row, model::MoeStats& summed, double tokens,
              const std::vector<routing::ExpertPool>& expert_pools);

/// The times of a row, its end and its peak memory: those of the rank that worked longest, and the
/// mean of all. waited: seconds of this rank's phases that it spent on waiting for others.
/// Collective over world; every rank gets the row.
void fill_times(TraceRow& row, const PhaseClock::Seconds& phases, double waited,
                const comm::Communicator& world);

/// The axes and attributes of this job's trace. The config must be resolved.
TraceAxes trace_axes(const config::Config& config, const engine::Instance& instance,
                     const std::vector<std::string>& tasks,
                     const std::vector<std::string>& corpora);

}  // namespace moesaic::record
