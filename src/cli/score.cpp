#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/log.h"
#include "base/sha256.h"
#include "cli/inference.h"
#include "cli/jobs.h"
#include "cli/score_reference.h"
#include "cli/score_report.h"
#include "comm/stop.h"
#include "config/compare.h"
#include "config/validate.h"
#include "files/durable.h"
#include "infer/scorer.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

/// What the job reads, checked on every rank.
struct Inputs : InferenceInputs {
  std::vector<std::int64_t> shards;  // of this task
  bool first_task = true;
  std::optional<Reference> reference;
};

void choose_shards(Inputs& inputs) {
  const config::ShardRange range = config::parse_shards(inputs.config.score.shards);
  for (std::int64_t shard = range.first; shard < inputs.corpora.shards(); shard += range.every) {
    inputs.shards.push_back(shard);
  }
  inputs.first_task = range.first == 0;
  if (range.every > 1) {  // tasks of an array run side by side: each has a trace
    const std::string ending = ".trace.h5";
    std::string stem = inputs.config.trace.path;
    if (stem.ends_with(ending)) {
      stem.resize(stem.size() - ending.size());
    }
    inputs.config.trace.path =
        fmt::format("{}.task-{:05}-of-{:05}{}", stem, range.first, range.every, ending);
  }
}

Inputs read_inputs(const config::Parsed& parsed, int ranks, checkpoint::Catalog& catalog) {
  Inputs inputs;
  static_cast<InferenceInputs&>(inputs) = read_model_and_corpora(parsed, ranks, catalog);
  choose_shards(inputs);
  if (!inputs.config.score.reference.empty()) {
    inputs.reference = open_reference(parsed, inputs.config, inputs.gates, ranks, catalog);
  }
  return inputs;
}

/// A hash of all that the scores depend on.
std::string fingerprint(const Inputs& inputs, checkpoint::Catalog& catalog) {
  std::vector<std::string_view> free = {"score.output", "score.shards"};
  if (!inputs.config.router.eval_capacity) {
    free.emplace_back("score.batch");
  }
  std::string text =
      provenance(inputs.config, inputs.corpora, catalog.model(inputs.config.model), "score", free);
  if (inputs.reference) {
    const checkpoint::ModelSource& reference = catalog.model(inputs.reference->config.model);
    text += inputs.reference->text + "\n" + reference.fingerprint() + "\n";
  }
  return Sha256::of(std::as_bytes(std::span(text)));
}

/// About the rows of this task's trace: one for each iteration, whose batches hold kScoreTokens or
/// a window, of which a stride is new; the ranks of tp and cp share a batch.
std::int64_t trace_rows(const Inputs& inputs, int ranks) {
  const config::ScoreJob& keys = inputs.config.score;
  const std::int64_t replicas = ranks / (inputs.config.parallel.tp * inputs.config.parallel.cp);
  const std::int64_t batch = std::max(keys.window, config::kScoreTokens) * replicas;
  std::int64_t rows = 0;
  for (const std::int64_t shard : inputs.shards) {
    const data::ShardInfo& info = inputs.corpora.shard_info(shard);
    const std::int64_t read = info.tokens / keys.stride * keys.window;
    const std::int64_t by_tokens = 2 * read / batch;  // documents do not fill a batch
    const std::int64_t windows = info.documents + info.tokens / keys.stride;
    const std::int64_t by_windows = keys.batch > 0 ? windows / (keys.batch * replicas) : 0;
    rows += 1 + std::max(by_tokens, by_windows);
  }
  return rows / inputs.config.trace.every;
}

/// About the bytes of this task's parts, twice for one file that is joined from them.
double score_bytes(const Inputs& inputs) {
  constexpr std::int64_t kPerDocument = 96, kPerFile = std::int64_t{1} << 20U;
  const std::int64_t per_token = inputs.reference ? 13 : 4;
  std::int64_t bytes = 0;
  for (const std::int64_t shard : inputs.shards) {
    const data::ShardInfo& info = inputs.corpora.shard_info(shard);
    bytes += per_token * info.tokens + kPerDocument * info.documents + kPerFile;
  }
  return static_cast<double>(inputs.config.score.output.ends_with(".h5") ? 2 * bytes : bytes);
}

void check_outputs_fit(const Inputs& inputs, const fs::path& folder, int ranks) {
  const config::Config& config = inputs.config;
  const double there =
      files::bytes_below(folder) +
      (folder == config.score.output ? 0.0 : files::bytes_below(config.score.output));
  files::check_space({{fmt::format("scores of {} shards", inputs.shards.size()), folder,
                       std::max(0.0, score_bytes(inputs) - there)},
                      trace_need(config, inputs.gates, ranks, inputs.corpora.tasks().size(),
                                 inputs.corpora.names().size(), trace_rows(inputs, ranks))},
                     "free some, raise trace.every, or choose another score.output");
}

/// Rank 0 claims the outputs of this task; two tasks of an array share a folder.
std::vector<files::RunLock> claim_outputs(const Inputs& inputs, const record::ScoresOutput& output,
                                          int ranks) {
  const config::Config& config = inputs.config;
  const fs::path folder = output.part(0).parent_path();
  files::make_folder(folder);
  const bool alone = config.score.shards.empty();
  auto locks = lock_outputs({alone ? folder : fs::path()}, config.trace.path);
  output.prepare(inputs.shards, inputs.first_task);
  check_outputs_fit(inputs, folder, ranks);
  begin_run_dir(config, inputs.first_task ? "score.cfg" : "");  // the other tasks have the same
  return locks;
}

void print_end(const record::ScoreTotals& totals, const Inputs& inputs) {
  log::print(score_report(totals, inputs.config.score.output,
                          inputs.reference ? inputs.reference->text : std::string()));
}

/// Collective over world: computes the missing parts.
infer::ScoreResult compute(Inputs& inputs, const record::ScoresOutput& output,
                           checkpoint::Catalog catalog, const comm::Communicator& world,
                           comm::Watchdog& watchdog) {
  config::Config& config = inputs.config;
  Ranks ranks = arrange_ranks(config, world);
  std::vector<std::vector<std::string>> rows = {{"model", inputs.model}};
  if (inputs.reference) {
    rows.push_back({"reference", inputs.reference->text + ", in memory beside it"});
    inputs.reference->config.run.threads = config.run.threads;
  }
  rows.push_back(
      {"corpus", fmt::format("{} of {} shards", inputs.shards.size(), inputs.corpora.shards())});
  show_start(ranks, rows, config);
  std::optional<engine::Instance> instance, reference;
  set_up(instance, config, inputs.gates, ranks.mesh, catalog, watchdog, engine::Use::kManyRows);
  if (inputs.reference) {
    set_up(reference, inputs.reference->config, inputs.reference->gates, ranks.mesh, catalog,
           watchdog, engine::Use::kManyRows);
  }
  catalog = {};
  comm::agree_to_go_on("loading", world);
  const infer::ScoreResult result =
      infer::score_shards({config, *instance, inputs.corpora, output, inputs.shards, watchdog,
                           reference ? &*reference : nullptr});
  reference.reset();
  instance.reset();
  ranks.mesh.close();
  return result;
}

/// On rank 0: the joined output if all parts are there, else only this task's are.
void finish(const Inputs& inputs, const record::ScoresOutput& output,
            std::vector<files::RunLock> locks) {
  const std::vector<std::uint8_t> done = output.parts_done();
  const bool all = std::find(done.begin(), done.end(), 0) == done.end();
  const record::ScoreTotals totals = all ? output.finish() : output.totals(inputs.shards);
  locks.clear();
  if (all) {
    output.remove_parts();
  }
  print_end(totals, inputs);
}

}  // namespace

int score(const config::Parsed& parsed, const comm::Communicator& world, comm::Watchdog& watchdog) {
  Inputs inputs;
  std::string print;
  comm::Facts facts;
  checkpoint::Catalog catalog;
  checkpoint::read_once(catalog, world, "read the config", [&] {
    inputs = read_inputs(parsed, world.size(), catalog);
    print = world.is_root() ? fingerprint(inputs, catalog) : "";
    facts = facts_of(inputs.config, &catalog.model(inputs.config.model));
    if (inputs.reference) {
      facts.push_back(fact_of(catalog.model(inputs.reference->config.model)));
    }
  });
  agree_on_inputs(facts, print, world, watchdog);
  const record::ScoresOutput output(
      inputs.config.score.output, inputs.corpora.shards(),
      {inputs.model, config::to_cfg(inputs.config), print, inputs.config.model.vocab_size,
       inputs.reference ? inputs.reference->text : std::string(), inputs.config.score.batch});
  if (inputs.shards.empty()) {
    log::print(fmt::format("no shard for score.shards = {}: the corpus has {}",
                           inputs.config.score.shards, inputs.corpora.shards()));
    return 0;
  }
  std::vector<files::RunLock> locks;
  const auto is_done = [&] {
    if (!output.is_finished()) {
      return false;
    }
    output.remove_parts();  // a job that was killed may have left some
    log::print("already scored, with the same model, corpus and settings");
    print_end(output.totals({}), inputs);
    return true;
  };
  if (is_done_or_claim(world, is_done,
                       [&] { locks = claim_outputs(inputs, output, world.size()); })) {
    return 0;
  }
  const infer::ScoreResult result = compute(inputs, output, std::move(catalog), world, watchdog);
  if (result.without_targets > 0) {
    log::info(fmt::format("{} of {} documents have no targets: nothing of them is scored",
                          result.without_targets, result.documents));
  }
  if (result.stopped) {
    log::info(fmt::format("stopped with {} new shards scored{}: the same command goes on",
                          result.new_parts, result.kept ? ", and a part of another" : ""));
    return static_cast<int>(result.new_parts > 0 || result.kept ? Exit::kStopped
                                                                : Exit::kTerminated);
  }
  on_root(world, "finish the scores", [&] { finish(inputs, output, std::move(locks)); });
  return 0;
}

}  // namespace moesaic::cli
