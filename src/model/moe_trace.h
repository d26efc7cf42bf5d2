#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/phase_clock.h"
#include "comm/mesh.h"
#include "config/config.h"
#include "io/trace.h"
#include "model/expert_pool.h"
#include "model/moe_stats.h"

namespace moesaic::model {

/// The MoE columns of a row. summed: over all micro-batches of the step and all ranks; tokens:
/// routed positions of the step; expert pools: of each MoE layer.
void fill_moe(io::TraceRow& row, MoeStats& summed, double tokens,
              const std::vector<ExpertPool>& expert_pools);

/// The times of a row, its end and its peak memory: those of the rank that worked longest, and the
/// mean of all. waited: seconds of this rank's phases that it spent on waiting for others.
/// Collective over world; every rank gets the row.
void fill_times(io::TraceRow& row, const PhaseClock::Seconds& phases, double waited,
                const comm::Communicator& world);

/// The axes and attributes of this job's trace. The config must be resolved.
io::TraceAxes trace_axes(const config::Config& config, const comm::Mesh& mesh,
                         const std::vector<std::int64_t>& moe_layers,
                         const std::vector<std::string>& tasks,
                         const std::vector<std::string>& corpora);

}  // namespace moesaic::model
