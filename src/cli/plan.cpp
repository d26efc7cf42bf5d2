#include <fmt/format.h>

#include "base/log.h"
#include "base/text.h"
#include "checkpoint/gate_state.h"
#include "cli/checkpoint_model.h"
#include "cli/jobs.h"
#include "cli/train_inputs.h"
#include "config/validate.h"
#include "model/trainable.h"
#include "plan/report.h"
#include "plan/trained_memory.h"

namespace moesaic::cli {
namespace {

// Those of model.path; empty: the job begins with a new model.
routing::GateState gates_of(const config::Config& config, checkpoint::Catalog& catalog) {
  return config.model.path.empty() ? routing::GateState{}
                                   : checkpoint::gates_of(catalog.model(config.model), config);
}

// What training takes beside the weights, to the byte.
std::vector<std::vector<std::string>> trained_rows(const config::Config& config, int ranks,
                                                   const routing::GateState& gates) {
  const plan::TrainedMemory memory = plan::trained_memory(config, plan::Layout::of(config, ranks),
                                                          gates, model::tuning_of(config, gates));
  const auto row = [](const char* name, std::int64_t most, std::int64_t all) {
    return std::vector<std::string>{name,
                                    fmt::format("{} on the fullest rank, {} on all", most, all)};
  };
  return {row("trained_elements", memory.largest.elements, memory.sum.elements),
          row("gradient_bytes", memory.largest.gradients, memory.sum.gradients),
          row("moment_bytes", memory.largest.moments, memory.sum.moments)};
}

}  // namespace

int plan(const config::Parsed& parsed) {
  checkpoint::Catalog catalog;
  const auto ranks = static_cast<int>(parsed.config.plan.ranks);
  if (parsed.config.plan.job == "train") {
    TrainInputs inputs = read_train_inputs(parsed, ranks, catalog);
    find_samples(inputs, {});
    check_targets(inputs);
    const routing::GateState gates = gates_of(inputs.config, catalog);
    const plan::Estimate estimate = plan::estimate(inputs.config, ranks, gates);
    log::print(plan::report(estimate, inputs.config, inputs.corpora.tokens()) +
               table(trained_rows(inputs.config, ranks, gates)) + table(document_rows(inputs)));
    return 0;
  }
  config::Config config = config::checked(adopt_model(parsed, catalog), ranks);
  std::int64_t tokens = 0;
  for (const std::string& path : config.data.corpus) {
    const data::CorpusInfo& corpus = catalog.corpus(path);
    tokens += corpus.tokens;
    if (config.model.vocab_size == 0) {
      config.model.vocab_size = corpus.vocab_size;
    }
  }
  log::print(
      plan::report(plan::estimate(config, ranks, gates_of(config, catalog)), config, tokens));
  return 0;
}

}  // namespace moesaic::cli
