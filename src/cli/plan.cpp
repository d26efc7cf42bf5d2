#include "base/log.h"
#include "base/text.h"
#include "checkpoint/gate_state.h"
#include "cli/checkpoint_model.h"
#include "cli/jobs.h"
#include "cli/train_inputs.h"
#include "config/validate.h"
#include "plan/report.h"

namespace moesaic::cli {
namespace {

// Those of model.path; empty: the job begins with a new model.
routing::GateState gates_of(const config::Config& config, checkpoint::Catalog& catalog) {
  return config.model.path.empty() ? routing::GateState{}
                                   : checkpoint::gates_of(catalog.model(config.model), config);
}

}  // namespace

int plan(const config::Parsed& parsed) {
  checkpoint::Catalog catalog;
  const auto ranks = static_cast<int>(parsed.config.plan.ranks);
  if (parsed.config.plan.job == "train") {
    TrainInputs inputs = read_train_inputs(parsed, ranks, catalog);
    find_samples(inputs, {});
    check_targets(inputs);
    const plan::Estimate estimate =
        plan::estimate(inputs.config, ranks, gates_of(inputs.config, catalog));
    log::print(plan::report(estimate, inputs.config, inputs.corpora.tokens()) +
               table(document_rows(inputs)));
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
