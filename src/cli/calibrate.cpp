#include "cli/calibrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "checkpoint/quantize.h"
#include "cli/checkpoint_model.h"
#include "cli/job.h"
#include "comm/stop.h"
#include "engine/pipeline.h"
#include "files/hdf5/thread.h"

namespace moesaic::cli {
namespace {

// Enough for means over columns, and for about a thousand tokens of each expert.
std::int64_t tokens_wanted(const config::Model& model) {
  constexpr std::int64_t kLeast = 32768, kOfAnExpert = 1024;
  return std::max(kLeast, kOfAnExpert * model.experts / std::max<std::int64_t>(1, model.top_k));
}

// Batches at equal distances over all shards, those of this replica; the same number on each, so
// that some may be empty. On any one rank the corpora are only read.
std::vector<data::MicroBatch> read_batches(const config::Model& model, data::Corpora& corpora,
                                           std::int64_t replica, std::int64_t replicas) {
  constexpr std::int64_t kWindow = 2048;
  const std::int64_t window = std::min(model.max_seq, kWindow);
  const std::int64_t wanted = tokens_wanted(model) / std::max(window, config::kScoreTokens);
  std::vector<data::MicroBatch> batches;
  std::int64_t opened = -1, last = -1, found = 0;
  data::ShardDocuments documents;
  std::vector<data::WindowBatch> of_shard;
  for (std::int64_t i = 0; i < wanted; ++i) {
    const double place = (static_cast<double>(i) + 0.5) / static_cast<double>(wanted) *
                         static_cast<double>(corpora.shards());
    const auto shard = static_cast<std::int64_t>(place);
    if (shard != opened) {
      documents = corpora.documents(shard);
      of_shard = data::pack(documents, {.window = window, .stride = window});
      opened = shard;
      last = -1;
    }
    const auto number = static_cast<std::int64_t>((place - std::floor(place)) *
                                                  static_cast<double>(of_shard.size()));
    if (number == last || of_shard.empty()) {
      continue;
    }
    last = number;
    if (found++ % replicas == replica) {
      const data::WindowBatch& windows = of_shard[static_cast<std::size_t>(number)];
      batches.push_back(data::to_micro_batch(
          windows, corpora.tokens(shard, windows, documents.offsets), documents));
    }
  }
  if (found == 0) {
    throw Error(Exit::kNoInput, "convert.calibration: the corpus has nothing to read");
  }
  batches.resize(static_cast<std::size_t>((found + replicas - 1) / replicas));
  return batches;
}

// Collective over the mesh: tokens, targets and the sum of their log-probabilities.
struct Reading {
  double tokens = 0.0, targets = 0.0, logprob = 0.0;
};
Reading read(engine::Instance& instance, model::ActivationStatistics& sums,
             std::span<const data::MicroBatch> batches, comm::Watchdog& watchdog) {
  model::Context ctx = instance.context();
  ctx.batch.dropless = true;
  ctx.observers = {sums.observer()};
  Reading total;
  const auto stages = static_cast<std::size_t>(instance.mesh[comm::Group::kPp].size());
  for (std::size_t first = 0; first < batches.size(); first += stages) {
    watchdog.iteration("calibration");
    comm::agree_to_go_on("calibrating", instance.mesh.world);
    const auto in_flight = batches.subspan(first, std::min(stages, batches.size() - first));
    engine::forward_all(instance, ctx, in_flight, [&](std::size_t i, const Tensor& hidden) {
      const auto rows = instance.transformer.head().log_probs(ctx, hidden);
      if (instance.mesh.reports()) {
        total.tokens += static_cast<double>(in_flight[i].size());
        total.targets += static_cast<double>(in_flight[i].counted());
        total.logprob = std::accumulate(rows.logprob.begin(), rows.logprob.end(), total.logprob);
      }
    });
  }
  instance.mesh.world.sum({total.tokens, total.targets, total.logprob});
  return total;
}

}  // namespace

data::Corpora open_calibration(const config::Config& config, checkpoint::ModelSource& model,
                               const std::vector<std::string>& tasks,
                               checkpoint::Catalog& catalog) {
  if (config.convert.calibration.empty()) {
    return {};
  }
  auto corpora = data::Corpora::open(catalog.corpora(config.convert.calibration));
  std::vector<std::string> joined = tasks;
  corpora.join_tasks(joined);
  check_vocabulary(model, corpora.info(0));
  return corpora;
}

checkpoint::Calibration calibrate(const config::Config& config, const routing::GateState& gates,
                                  checkpoint::ModelSource& model, data::Corpora& corpora,
                                  const comm::Mesh& mesh, comm::Watchdog& watchdog) {
  std::optional<engine::Instance> instance;
  std::vector<data::MicroBatch> batches;
  mesh.world.together("set up the calibration", [&] {
    load_model(instance, config, gates, mesh, engine::Use::kManyRows, model, watchdog);
    batches = files::hdf5_run([&] {
      return read_batches(config.model, corpora, mesh[comm::Group::kBatches].rank(),
                          mesh[comm::Group::kBatches].size());
    });
  });
  model::ActivationStatistics sums;
  const Reading total = read(*instance, sums, batches, watchdog);
  if (!std::isfinite(total.logprob)) {
    throw comm::AgreedError(Exit::kBadNumbers,
                            fmt::format("{}: the model gives log-probabilities that are no numbers "
                                        "on convert.calibration",
                                        model.path().string()));
  }
  log::print(fmt::format("calibration: {} tokens, perplexity {:.4f} before",
                         short_count(total.tokens),
                         std::exp(-total.logprob / std::max(1.0, total.targets))));
  std::vector<std::string> names;
  for (const auto& [name, kind] : checkpoint::stored_kinds(config.model, config.router, gates)) {
    if (kind.packable) {
      names.push_back(name);
    }
  }
  watchdog.iteration("calibration");
  checkpoint::Calibration result = checkpoint::join_sums(*instance, sums, names);
  for (const std::string& warning : result.warnings) {
    log::warn(warning);
  }
  return result;
}

}  // namespace moesaic::cli
