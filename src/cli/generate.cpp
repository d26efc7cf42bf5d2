#include "cli/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/io_error.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/text.h"
#include "cli/checkpoint_model.h"
#include "cli/inference.h"
#include "cli/threads.h"
#include "cli/trace_size.h"
#include "comm/launch.h"
#include "comm/mesh.h"
#include "comm/stop.h"
#include "config/compare.h"
#include "config/validate.h"
#include "data/corpus/corpus_tokenizer.h"
#include "files/disk_space.h"
#include "files/durable.h"
#include "files/run_lock.h"
#include "infer/generator.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

/// What the job reads, checked on every rank.
struct Inputs {
  config::Config config;
  data::ScoreCorpora corpora;
  std::optional<text::Tokenizer> tokenizer;  // none: bare shards do not name theirs
  infer::GenerateRules rules;
  std::string model;  // path and step
};

std::optional<text::Tokenizer> tokenizer_of(const data::CorpusInfo& corpus,
                                            const config::GenerateJob& keys) {
  if (!corpus.vocab_sha256.empty()) {
    return data::tokenizer_of(corpus);
  }
  if (!keys.stop.empty()) {
    throw Error(Exit::kUsage,
                fmt::format("generate.stop needs texts, but {} does not say with which tokenizer "
                            "it was made: leave it out, or make the corpus with tokenize",
                            corpus.name));
  }
  return std::nullopt;
}

// Those of the model and of the corpus.
std::vector<std::int32_t> ends_of(const checkpoint::ModelSource& source,
                                  const data::CorpusInfo& corpus) {
  std::vector<std::int32_t> ends = source.special_tokens().eos;
  if (corpus.eos_id >= 0) {
    ends.push_back(static_cast<std::int32_t>(corpus.eos_id));
  }
  return ends;
}

void read_inputs(const config::Parsed& parsed, int ranks, checkpoint::Catalog& catalog,
                 Inputs& inputs) {
  inputs.config = config::checked(adopt_model(parsed, catalog), ranks);
  const config::Config& config = inputs.config;
  checkpoint::ModelSource& source = catalog.model(config.model.path);
  adopt_pool(source, inputs.config);
  const std::vector<std::string> tasks = source.tasks();
  adopt_tasks(tasks, inputs.config);
  inputs.corpora = data::ScoreCorpora::open(catalog.corpora(config.data.corpus), tasks);
  const data::CorpusInfo& corpus = inputs.corpora.first();
  check_vocabulary(source, corpus);
  inputs.tokenizer = tokenizer_of(corpus, config.generate);
  inputs.model = source.text();
  const config::GenerateJob& keys = config.generate;
  inputs.rules = {.max_tokens = keys.max_tokens,
                  .max_seq = config.model.max_seq,
                  .ends = ends_of(source, corpus),
                  .tokenizer = inputs.tokenizer ? &*inputs.tokenizer : nullptr,
                  .stop = &keys.stop,
                  .batch = config::sequences_at_once(keys),
                  .prefill = keys.prefill};
}

/// A hash of all that the tokens depend on.
std::string fingerprint(const Inputs& inputs, const checkpoint::ModelSource& model) {
  constexpr std::array<std::string_view, 4> kFree = {"generate.output", "generate.batch",
                                                     "generate.cache", "generate.prefill"};
  std::string text = provenance(inputs.config, inputs.corpora, model, [&](std::string_view key) {
    const bool counts = key.starts_with("generate.") || key.starts_with("router.") ||
                        key == "run.precision" || key == "run.quantize" ||
                        key == "run.deterministic";
    return counts && std::find(kFree.begin(), kFree.end(), key) == kFree.end();
  });
  for (const std::int32_t end : inputs.rules.ends) {
    text += fmt::format("end {}\n", end);
  }
  return Sha256::of(std::as_bytes(std::span(text)));
}

void check_outputs_fit(const Inputs& inputs, std::int64_t documents, const fs::path& folder,
                       int ranks) {
  // Twice, in parts and joined: ids, numbers and texts, in both files, of the longest
  // continuations.
  constexpr double kPerDocument = 256.0, kPerToken = 16.0, kPerFile = 1 << 20;
  const config::Config& config = inputs.config;
  const std::int64_t longest = std::min(config.generate.max_tokens, config.model.max_seq);
  const auto tokens = static_cast<double>(documents * longest);
  const double bytes =
      2.0 * (tokens * kPerToken + static_cast<double>(documents) * kPerDocument + kPerFile);
  const int replicas = ranks / static_cast<int>(config.parallel.tp * config.parallel.pp);
  const std::int64_t at_once = inputs.rules.batch * replicas;
  const std::int64_t rows = (documents / at_once + 1) * (longest + 1) / config.trace.every;
  const double trace =
      trace_size(config, ranks, inputs.corpora.tasks().size(), inputs.corpora.names().size(), rows);
  files::check_space({{fmt::format("continuations of {} documents", documents), folder,
                       std::max(0.0, bytes - files::bytes_below(folder))},
                      {fmt::format("a trace of {} rows", rows), config.trace.path,
                       std::max(0.0, trace - files::bytes_below(config.trace.path))}},
                     "free some, lower generate.max_tokens, raise trace.every, or choose another "
                     "generate.output");
}

/// Rank 0 claims the outputs.
std::vector<files::RunLock> claim_outputs(const Inputs& inputs, std::int64_t documents,
                                          const record::GenerationsOutput& output, int ranks) {
  const config::Config& config = inputs.config;
  files::make_folder(output.folder());
  std::vector<files::RunLock> locks;
  locks.push_back(files::RunLock::of_folder(output.folder()));
  locks.push_back(files::RunLock::beside(config.trace.path));
  output.prepare();
  check_outputs_fit(inputs, documents, output.folder(), ranks);
  if (!config.run.dir.empty()) {
    files::make_folder(config.run.dir);
    files::write_whole(fs::path(config.run.dir) / "generate.cfg", config::to_cfg(config));
    log::add_file(fs::path(config.run.dir) / "log.txt");
  }
  return locks;
}

void print_end(const record::GenerationTotals& totals, const std::string& path,
               const record::GenerationsOutput& output) {
  log::print(fmt::format("tokens {} in {} continuations\ncontinuations: {} {}", totals.tokens,
                         totals.documents, path, output.lines().string()));
}

/// Collective over the mesh: computes the missing parts.
infer::GenerateResult compute(Inputs& inputs, data::Prompts& prompts,
                              const record::GenerationsOutput& output, checkpoint::Catalog catalog,
                              const comm::Communicator& world, comm::Watchdog& watchdog) {
  config::Config& config = inputs.config;
  comm::Mesh mesh = engine::make_mesh(config, world.ledger());
  const Threads threads = choose_threads(config.run, mesh.node);
  config.run.threads = threads.count;
  log::print(table(mesh.layout.rows()));
  log::print(table(
      {{"model", inputs.model},
       {"prompts", fmt::format("{} from {} shards", prompts.documents(), inputs.corpora.shards())},
       {"placement", threads.placement},
       {"mpi", comm::mpi_text()},
       {"trace", config.trace.path}}));
  std::optional<engine::Instance> instance;
  set_up(instance, config, mesh, catalog, watchdog, engine::Use::kFewRows);
  catalog = {};
  comm::agree_to_go_on("loading", world);
  const infer::GenerateResult result =
      infer::generate({config, *instance, inputs.corpora, prompts, inputs.rules, output, watchdog});
  instance.reset();
  mesh.close();
  return result;
}

/// Collective over world: whether both files are there already. Else rank 0 claims them.
bool is_finished(const Inputs& inputs, std::int64_t documents,
                 const record::GenerationsOutput& output, const comm::Communicator& world,
                 std::vector<files::RunLock>& locks) {
  std::int64_t finished = 0;
  world.together("create the output", [&] {
    if (!world.is_root()) {
      return;
    }
    if (output.is_finished()) {
      finished = 1;
      output.remove_parts();  // a job that was killed may have left some
      log::print("already generated, with the same model, corpus and settings");
      print_end(output.totals(), inputs.config.generate.output, output);
      return;
    }
    at_start([&] { locks = claim_outputs(inputs, documents, output, world.size()); });
  });
  world.broadcast(std::span<std::int64_t>(&finished, 1), 0);
  return finished != 0;
}

}  // namespace

int generate(const config::Parsed& parsed, const comm::Communicator& world,
             comm::Watchdog& watchdog) {
  Inputs inputs;
  std::string print;
  comm::Facts facts;
  checkpoint::Catalog catalog;
  checkpoint::read_once(catalog, world, "read the config", [&] {
    read_inputs(parsed, world.size(), catalog, inputs);
    print = world.is_root() ? fingerprint(inputs, catalog.model(inputs.config.model.path)) : "";
    facts = facts_of(inputs.config, catalog);
  });
  comm::agree_to_go_on("loading", world);
  comm::check_same(facts, world);
  world.broadcast(print, 0);
  watchdog.loading();
  data::Prompts prompts(inputs.corpora);
  const record::GenerationsOutput output(inputs.config.generate.output, prompts.parts(),
                                         {inputs.model, config::to_cfg(inputs.config), print});
  std::vector<files::RunLock> locks;
  if (is_finished(inputs, prompts.documents(), output, world, locks)) {
    return 0;
  }
  const infer::GenerateResult result =
      compute(inputs, prompts, output, std::move(catalog), world, watchdog);
  if (result.stopped) {
    log::info(fmt::format("stopped with {} new parts: the same command goes on", result.new_parts));
    return static_cast<int>(result.new_parts > 0 ? Exit::kStopped : Exit::kTerminated);
  }
  world.together("finish the continuations", [&] {
    if (world.is_root()) {
      const record::GenerationTotals totals = output.finish();
      locks.clear();
      output.remove_parts();
      print_end(totals, inputs.config.generate.output, output);
    }
  });
  return 0;
}

}  // namespace moesaic::cli
