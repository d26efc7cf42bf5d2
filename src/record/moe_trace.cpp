#include "record/moe_trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <span>
#include <string_view>

#include "base/host.h"
#include "base/sha256.h"
#include "base/share.h"
#include "base/version.h"
#include "comm/launch.h"
#include "config/compare.h"
#include "engine/instance.h"
#include "files/hdf5/version.h"

namespace moesaic::record {
namespace {

void append_counts(std::vector<std::int64_t>& column, std::span<const double> counts) {
  for (const double count : counts) {
    column.push_back(static_cast<std::int64_t>(count));
  }
}

double sum(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

double ratio(double part, double whole) { return whole > 0.0 ? part / whole : 0.0; }

void fill_layer(TraceRow& row, model::MoeStats& summed, std::int64_t layer, double tokens,
                const routing::ExpertPool& expert_pool) {
  const auto regular = static_cast<double>(expert_pool.count(ExpertState::kRegular));
  const auto chosen = summed.chosen(layer);
  const double largest = *std::max_element(chosen.begin(), chosen.end());
  row.aux_loss.push_back(ratio(summed.sums(layer)[0], tokens));
  row.z_loss.push_back(ratio(summed.sums(layer)[1], tokens));
  row.gate_entropy.push_back(ratio(summed.sums(layer)[2], tokens));
  row.load_max_over_mean.push_back(ratio(largest * regular, sum(chosen)));
  row.utilisation.push_back(ratio(sum(summed.processed(layer)), sum(summed.slots(layer))));
  append_counts(row.expert_tokens, chosen);
  append_counts(row.expert_dropped, summed.dropped(layer));
  append_counts(row.expert_rerouted, summed.rerouted(layer));
  append_counts(row.expert_processed, summed.processed(layer));
  append_counts(row.expert_slots, summed.slots(layer));
  append_counts(row.task_expert_tokens, summed.by_task(layer));
  append_counts(row.task_choice_tokens, summed.choices_by_task(layer));
  for (const std::int32_t state : expert_pool.state_numbers()) {
    row.expert_state.push_back(state);
  }
}

// The largest resident memory of this process, bytes. Not getrusage's, which begins with that of
// the program that started this one.
std::int64_t peak_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    constexpr std::string_view kPeak = "VmHWM:";
    if (line.starts_with(kPeak)) {
      return std::atoll(line.c_str() + kPeak.size()) * 1024;
    }
  }
  return 0;
}

double unix_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr ? value : "";
}

// What the formula says for the pipeline of a training step.
double bubble_of(const config::Config& config, const comm::Mesh& mesh) {
  const std::int64_t replicas = mesh[comm::Group::kBatches].size();
  const std::int64_t all = config.train.batch / config.train.micro_batch;
  return ideal_bubble(mesh[comm::Group::kPp].size(), config.parallel.virtual_stages,
                      (all + replicas - 1) / replicas);
}

std::map<std::string, std::string> attributes(const config::Config& config,
                                              const comm::Mesh& mesh) {
  const std::string text = config::to_cfg(config);
  std::map<std::string, std::string> list = {
      {"job", config.plan.job},
      {"config", text},
      {"config_sha256", Sha256::of(std::as_bytes(std::span(text)))},
      {"program_version", std::string(version())},
      {"git_hash", std::string(git_hash())},
      {"layout", mesh.layout.text()},
      {"ideal_bubble", fmt::format("{}", bubble_of(config, mesh))},
      {"world_size", std::to_string(mesh.world.size())},
      {"top_k", std::to_string(config.model.top_k)},
      {"every", std::to_string(config.trace.every)},
      {"host", host_name()},
      {"mpi_version", comm::mpi_library()},
      {"mpi_threads", comm::mpi_threads()},
      {"mpi_transport", comm::mpi_transport()},
      {"hdf5_version", files::hdf5_version()},
      {"job_id", environment("SLURM_JOB_ID")},
      {"restart_count", environment("SLURM_RESTART_COUNT")},
      {"nodes", environment("SLURM_JOB_NODELIST")}};
  for (const auto& [key, value] : config::flatten(config)) {
    list[key] = value;
  }
  if (config.train.epochs > 0.0) {  // what the length of the run follows from
    list["train.epoch_samples"] = std::to_string(config.train.epoch_samples);
  }
  return list;
}

}  // namespace

void fill_moe(TraceRow& row, model::MoeStats& summed, double tokens,
              const std::vector<routing::ExpertPool>& expert_pools) {
  for (std::int64_t layer = 0; layer < summed.layers(); ++layer) {
    fill_layer(row, summed, layer, tokens, expert_pools[static_cast<std::size_t>(layer)]);
  }
}

void fill_times(TraceRow& row, const PhaseClock::Seconds& phases, double waited,
                const comm::Communicator& world) {
  const double worked = std::max(0.0, sum(phases) - waited);
  row.rank_seconds = world.gather(std::span<const double>(&worked, 1), 0);
  const double most = world.all_reduce(worked, comm::Reduce::kMax);
  const int slowest =
      world.all_reduce(worked == most ? world.rank() : world.size(), comm::Reduce::kMin);
  row.time.assign(phases.begin(), phases.end());
  row.time_mean = row.time;
  world.broadcast(std::span(row.time), slowest);
  world.all_reduce(std::span(row.time_mean), comm::Reduce::kSum);
  for (double& mean : row.time_mean) {
    mean /= world.size();
  }
  row.seconds = sum(row.time);
  row.unix_time = unix_time();
  row.peak_memory = world.all_reduce(peak_memory(), comm::Reduce::kMax);
}

TraceAxes trace_axes(const config::Config& config, const engine::Instance& instance,
                     const std::vector<std::string>& tasks,
                     const std::vector<std::string>& corpora) {
  return {.moe_layers = instance.transformer.moe_layers(),
          .experts = instance.transformer.experts(),
          .choices = config.model.top_k,
          .phases = {kPhaseNames.begin(), kPhaseNames.end()},
          .tasks = tasks,
          .corpora = corpora,
          .groups = comm::traced_names(),
          .ranks = instance.mesh.world.size(),
          .attributes = attributes(config, instance.mesh)};
}

}  // namespace moesaic::record
