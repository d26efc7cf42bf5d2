#include "cli/train_inputs.h"

#include <fmt/format.h>

#include "base/error.h"
#include "cli/checkpoint_model.h"
#include "config/validate.h"

namespace moesaic::cli {
namespace {

void adopt_vocabulary(config::Config& config, const train::Corpora& corpora) {
  if (config.model.vocab_size == 0) {
    config.model.vocab_size = corpora.vocab_size();
  }
  // What model.path says is compared when the model is loaded.
  if (config.model.vocab_size != corpora.vocab_size() && config.model.path.empty()) {
    throw Error(
        Exit::kBadData,
        fmt::format("model.vocab_size = {}, but {} has {} tokens: leave the key out, or "
                    "tokenize with that vocabulary",
                    config.model.vocab_size, config.data.corpus.front(), corpora.vocab_size()));
  }
}

void check_samples(const config::Config& config, const train::Corpora& corpora) {
  std::int64_t total = 0;
  for (const std::int64_t count : corpora.samples()) {
    total += count;
  }
  if (total == 0) {
    throw Error(Exit::kNoInput,
                fmt::format("{} has {} tokens, fewer than one sample of data.seq_len + 1 = {}",
                            config.data.corpus.front(), corpora.tokens(), config.data.seq_len + 1));
  }
  const std::vector<double>& weights = config.data.corpus_weights;
  for (std::size_t c = 0; c < weights.size(); ++c) {
    if (weights[c] > 0.0 && corpora.samples()[c] == 0) {
      throw Error(
          Exit::kNoInput,
          fmt::format(
              "data.corpus_weights gives {} the weight {}, but it has {} tokens, fewer than "
              "one sample of data.seq_len + 1 = {}: leave it out, or give it no weight",
              config.data.corpus[c], weights[c], corpora.info(c).tokens, config.data.seq_len + 1));
    }
  }
}

}  // namespace

TrainInputs read_train_inputs(const config::Parsed& parsed, int ranks, io::Catalog& catalog) {
  TrainInputs inputs;
  inputs.config = config::checked(adopt_model(parsed, catalog), ranks);
  const config::Data& data = inputs.config.data;
  inputs.corpora = train::Corpora::open(data.corpus, data.seq_len, catalog);
  inputs.eval_corpora = train::Corpora::open(data.eval_corpus, data.seq_len, catalog);
  inputs.corpora.check_vocabulary_of(inputs.eval_corpora);
  adopt_vocabulary(inputs.config, inputs.corpora);
  check_samples(inputs.config, inputs.corpora);
  return inputs;
}

}  // namespace moesaic::cli
