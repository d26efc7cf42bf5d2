#include "cli/trace_size.h"

#include "base/phase_clock.h"
#include "config/layers.h"
#include "config/pool.h"
#include "engine/instance.h"
#include "record/routing_record.h"
#include "record/trace.h"

namespace moesaic::cli {

double trace_size(const config::Config& config, int ranks, std::size_t tasks, std::size_t corpora,
                  std::int64_t rows) {
  record::TraceAxes axes;
  axes.moe_layers.resize(config::moe_layers(config.model).size());
  axes.experts = config::expert_numbers(config.model, config.router);
  axes.choices = config.model.top_k;
  axes.phases = {kPhaseNames.begin(), kPhaseNames.end()};
  axes.tasks.resize(tasks);
  axes.corpora.resize(corpora);
  axes.groups = comm::traced_names();
  axes.ranks = ranks;
  return record::trace_bytes(axes, rows);
}

double routing_size(const config::Config& config) {
  return record::routing_step_bytes(std::ssize(config::moe_layers(config.model)),
                                    config.model.top_k, config.train.batch * config.data.seq_len);
}

}  // namespace moesaic::cli
