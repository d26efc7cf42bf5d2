#include "record/job_trace.h"

#include <fmt/format.h>

#include <array>

#include "base/host.h"
#include "base/io_error.h"
#include "base/log.h"
#include "record/moe_trace.h"

namespace moesaic::record {

namespace {

// What training takes beside the weights; nothing where nothing is trained. Collective over the
// mesh.
std::map<std::string, std::vector<std::int64_t>> trained_numbers(const config::Config& config,
                                                                 const engine::Instance& instance) {
  const auto bytes = instance.parameters.trained_bytes(config.train.moments);
  std::array<std::int64_t, 3> most = {bytes.elements, bytes.gradients, bytes.moments}, all = most;
  instance.mesh.world.all_reduce(std::span<std::int64_t>(most), comm::Reduce::kMax);
  instance.mesh.world.all_reduce(std::span<std::int64_t>(all), comm::Reduce::kSum);
  constexpr std::array<const char*, 3> kNames = {"trained_elements", "gradient_bytes",
                                                 "moment_bytes"};
  std::map<std::string, std::vector<std::int64_t>> numbers;
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (all[i] > 0) {
      numbers[kNames[i]] = {most[i], all[i]};
    }
  }
  return numbers;
}

}  // namespace

JobTrace::JobTrace(const config::Config& config, engine::Instance& instance,
                   const std::vector<std::string>& tasks, const std::vector<std::string>& corpora,
                   std::optional<std::int64_t> last_step)
    : config_(config),
      instance_(instance),
      sent_(instance.bytes_sent()),
      hosts_(instance.mesh.world.gather(host_name(), 0)) {
  if (const comm::Ledger* const ledger = instance.mesh.world.ledger()) {
    waited_ = ledger->waited();
    waited_for_stages_ = ledger->waited(comm::Group::kPp);
  }
  const auto numbers = trained_numbers(config, instance);
  instance.mesh.world.together("open the trace", [&] {
    if (!instance.mesh.world.is_root()) {
      return;
    }
    const config::Trace& trace = config.trace;
    TraceAxes axes = trace_axes(config, instance, tasks, corpora);
    axes.numbers = numbers;
    at_start([&] {
      writer_ = last_step ? TraceWriter::resume(trace.path, axes, trace.flush, *last_step)
                          : TraceWriter::create(trace.path, axes, trace.flush);
    });
  });
}

// A trace is worth less than what the job computes: an error waits until that is saved.
void JobTrace::attempt(const std::function<void(TraceWriter&)>& step) {
  if (!writer_ || failure_) {
    return;
  }
  try {
    step(*writer_);
  } catch (const Error& error) {
    failure_ = error;
    log::warn(fmt::format("the job will end, as its trace cannot be written: {}", error.what()));
  }
}

// Collective over the mesh.
void JobTrace::fill_traffic(TraceRow& row) {
  const comm::Communicator& world = instance_.mesh.world;
  const std::vector<double> sent = instance_.bytes_sent();
  for (std::size_t i = 0; i < sent.size(); ++i) {
    row.traffic.push_back(sent[i] - sent_[i]);
  }
  sent_ = sent;
  const comm::Ledger* const ledger = world.ledger();
  const double waited = ledger != nullptr ? ledger->waited(comm::Group::kPp) : 0.0;
  row.traffic.push_back(waited - waited_for_stages_);
  waited_for_stages_ = waited;
  world.all_reduce(std::span(row.traffic), comm::Reduce::kSum);
  row.bubble = row.seconds > 0.0 ? row.traffic.back() / world.size() / row.seconds : 0.0;
  row.traffic.pop_back();
}

// A rank that the others wait for becomes an event; the job goes on.
void JobTrace::note_straggler(const TraceRow& row) {
  const auto found = stragglers_.add(row.rank_seconds);
  if (!found) {
    return;
  }
  const std::string message = fmt::format(
      "rank {} on {} worked {:.3g} s in this step, the median rank {:.3g} s", found->rank,
      hosts_[static_cast<std::size_t>(found->rank)], found->seconds, found->median);
  event(row.step, "straggler", message);
  log::warn(fmt::format("step {}: {}", row.step, message));
}

void JobTrace::add(TraceRow& row, model::MoeStats& summed, const std::vector<double>& task_tokens) {
  const comm::Ledger* const ledger = instance_.mesh.world.ledger();
  const double waited = ledger != nullptr ? ledger->waited() : 0.0;
  fill_times(row, instance_.clock.take(), waited - waited_, instance_.mesh.world);
  waited_ = waited;
  fill_traffic(row);
  if (writer_) {
    note_straggler(row);
  }
  row.task_tokens.assign(task_tokens.begin(), task_tokens.end());
  fill_moe(row, summed, static_cast<double>(row.tokens), instance_.transformer.expert_pools());
  if (row.step % config_.trace.every == 0) {
    attempt([&](TraceWriter& writer) { writer.add(row); });
  }
}

void JobTrace::add(const EvalRow& row) {
  attempt([&](TraceWriter& writer) { writer.add(row); });
}

void JobTrace::event(std::int64_t step, const std::string& kind, const std::string& message) {
  attempt([&](TraceWriter& writer) { writer.event(step, kind, message); });
}

void JobTrace::flush() {
  attempt([](TraceWriter& writer) { writer.write_all(); });
}

void JobTrace::close() {
  flush();
  instance_.mesh.world.together("close the trace", [&] {
    if (failure_) {
      throw Error(*failure_);
    }
  });
}

}  // namespace moesaic::record
