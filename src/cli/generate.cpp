#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/sha256.h"
#include "cli/inference.h"
#include "cli/jobs.h"
#include "comm/stop.h"
#include "config/compare.h"
#include "data/corpus/corpus_tokenizer.h"
#include "infer/generator.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

/// What the job reads, checked on every rank.
struct Inputs : InferenceInputs {
  std::optional<text::Tokenizer> tokenizer;  // none: bare shards do not name theirs
  infer::GenerateRules rules;
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
  static_cast<InferenceInputs&>(inputs) = read_model_and_corpora(parsed, ranks, catalog);
  const config::Config& config = inputs.config;
  const config::GenerateJob& keys = config.generate;
  inputs.tokenizer = tokenizer_of(inputs.corpora.info(0), keys);
  inputs.rules = {.max_tokens = keys.max_tokens,
                  .max_seq = config.model.max_seq,
                  .ends = ends_of(catalog.model(config.model), inputs.corpora.info(0)),
                  .tokenizer = inputs.tokenizer ? &*inputs.tokenizer : nullptr,
                  .stop = &keys.stop,
                  .batch = config::sequences_at_once(keys),
                  .prefill = keys.prefill};
}

/// A hash of all that the tokens depend on.
std::string fingerprint(const Inputs& inputs, const checkpoint::ModelSource& model) {
  constexpr std::array<std::string_view, 4> kFree = {"generate.output", "generate.batch",
                                                     "generate.cache", "generate.prefill"};
  std::string text = provenance(inputs.config, inputs.corpora, model, "generate", kFree);
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
  files::check_space(
      {space_need(fmt::format("continuations of {} documents", documents), folder, bytes),
       trace_need(config, inputs.gates, ranks, inputs.corpora.tasks().size(),
                  inputs.corpora.names().size(), rows)},
      "free some, lower generate.max_tokens, raise trace.every, or choose another "
      "generate.output");
}

/// Rank 0 claims the outputs.
std::vector<files::RunLock> claim_outputs(const Inputs& inputs, std::int64_t documents,
                                          const record::GenerationsOutput& output, int ranks) {
  auto locks = lock_outputs({output.folder()}, inputs.config.trace.path);
  output.prepare();
  check_outputs_fit(inputs, documents, output.folder(), ranks);
  begin_run_dir(inputs.config, "generate.cfg");
  return locks;
}

void print_end(const record::GenerationTotals& totals, const std::string& path,
               const record::GenerationsOutput& output) {
  log::print(fmt::format("tokens {} in {} continuations\ncontinuations: {} {}", totals.tokens,
                         totals.documents, path, output.lines().string()));
}

/// Collective over world: computes the missing parts.
infer::GenerateResult compute(Inputs& inputs, data::Prompts& prompts,
                              const record::GenerationsOutput& output, checkpoint::Catalog catalog,
                              const comm::Communicator& world, comm::Watchdog& watchdog) {
  config::Config& config = inputs.config;
  Ranks ranks = arrange_ranks(config, world);
  show_start(
      ranks,
      {{"model", inputs.model},
       {"prompts", fmt::format("{} from {} shards", prompts.documents(), inputs.corpora.shards())}},
      config);
  std::optional<engine::Instance> instance;
  set_up(instance, config, inputs.gates, ranks.mesh, catalog, watchdog, engine::Use::kFewRows);
  catalog = {};
  comm::agree_to_go_on("loading", world);
  const infer::GenerateResult result =
      infer::generate({config, *instance, inputs.corpora, prompts, inputs.rules, output, watchdog});
  instance.reset();
  ranks.mesh.close();
  return result;
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
    const checkpoint::ModelSource& model = catalog.model(inputs.config.model);
    print = world.is_root() ? fingerprint(inputs, model) : "";
    facts = facts_of(inputs.config, &model);
  });
  agree_on_inputs(facts, print, world, watchdog);
  data::Prompts prompts(inputs.corpora);
  const record::GenerationsOutput output(inputs.config.generate.output, prompts.parts(),
                                         {inputs.model, config::to_cfg(inputs.config), print});
  std::vector<files::RunLock> locks;
  const auto is_done = [&] {
    if (!output.is_finished()) {
      return false;
    }
    output.remove_parts();  // a job that was killed may have left some
    log::print("already generated, with the same model, corpus and settings");
    print_end(output.totals(), inputs.config.generate.output, output);
    return true;
  };
  if (is_done_or_claim(world, is_done, [&] {
        locks = claim_outputs(inputs, prompts.documents(), output, world.size());
      })) {
    return 0;
  }
  const infer::GenerateResult result =
      compute(inputs, prompts, output, std::move(catalog), world, watchdog);
  if (result.stopped) {
    log::info(fmt::format("stopped with {} new parts: the same command goes on", result.new_parts));
    return static_cast<int>(result.new_parts > 0 ? Exit::kStopped : Exit::kTerminated);
  }
  on_root(world, "finish the continuations", [&] {
    const record::GenerationTotals totals = output.finish();
    locks.clear();
    output.remove_parts();
    print_end(totals, inputs.config.generate.output, output);
  });
  return 0;
}

}  // namespace moesaic::cli
