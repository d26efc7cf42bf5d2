#include "cli/train_inputs.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/text.h"
#include "checkpoint/gate_state.h"
#include "cli/checkpoint_model.h"
#include "config/validate.h"
#include "files/hdf5/thread.h"
#include "train/evaluation.h"

namespace moesaic::cli {
namespace {

void adopt_vocabulary(config::Config& config, const data::Corpora& corpora) {
  if (config.model.vocab_size == 0) {
    config.model.vocab_size = corpora.vocab_size();
  }
  // What model.path says is compared when the model is loaded.
  if (config.model.vocab_size != corpora.vocab_size() && config.model.path.empty()) {
    throw Error(
        Exit::kBadData,
        fmt::format("model.vocab_size = {}, but {} has {} tokens: leave the key out, or "
                    "tokenize with that vocabulary",
                    config.model.vocab_size, corpora.names().front(), corpora.vocab_size()));
  }
}

std::string too_short(const config::Config& config, const data::CorpusInfo& info) {
  return fmt::format("{} tokens, fewer than one sample of data.seq_len + 1 = {}", info.tokens,
                     config.data.seq_len + 1);
}

constexpr const char* kNoTarget =
    "has nothing to predict: it is all first tokens of documents, and contexts";

void check_samples(const config::Config& config, const data::Corpora& corpora) {
  const std::vector<std::int64_t> counts = corpora.samples();
  std::int64_t total = 0;
  for (const std::int64_t count : counts) {
    total += count;
  }
  if (total == 0) {
    throw Error(Exit::kNoInput,
                fmt::format("{} has {} tokens, fewer than one sample of data.seq_len + 1 = {}",
                            config.data.corpus.front(), corpora.tokens(), config.data.seq_len + 1));
  }
  const std::vector<double>& weights = config.data.corpus_weights;
  for (std::size_t c = 0; c < weights.size(); ++c) {
    if (weights[c] > 0.0 && counts[c] == 0) {
      throw Error(
          Exit::kNoInput,
          fmt::format("data.corpus_weights gives {} the weight {}, but it has {}: leave it "
                      "out, or give it no weight",
                      config.data.corpus[c], weights[c], too_short(config, corpora.info(c))));
    }
  }
}

void check_training_targets(const config::Config& config, data::Corpora& corpora) {
  const std::vector<std::int64_t> counts = corpora.samples();
  for (std::size_t c = 0; c < counts.size(); ++c) {
    for (std::int64_t i = 0; i < counts[c]; ++i) {
      if (corpora.has_target({c, i})) {
        return;
      }
    }
  }
  throw Error(Exit::kNoInput,
              fmt::format("data.corpus: {} {}", join(config.data.corpus, ", "), kNoTarget));
}

void check_evaluation(const config::Config& config, const data::Corpora& corpora) {
  for (std::size_t c = 0; c < corpora.size(); ++c) {
    if (corpora.samples()[c] == 0) {
      throw Error(Exit::kNoInput,
                  fmt::format("data.eval_corpus: {} has {}: leave it out",
                              config.data.eval_corpus[c], too_short(config, corpora.info(c))));
    }
  }
}

void check_evaluation_targets(const config::Config& config, data::Corpora& corpora) {
  std::vector<bool> measured(corpora.size());
  for (const data::SampleLocation& location : train::evaluation_samples(corpora, config)) {
    measured[location.corpus] = measured[location.corpus] || corpora.has_target(location);
  }
  for (std::size_t c = 0; c < corpora.size(); ++c) {
    if (!measured[c]) {
      throw Error(
          Exit::kNoInput,
          fmt::format("data.eval_corpus: what an evaluation reads of {} (eval.tokens = {}) {}",
                      config.data.eval_corpus[c], config.eval.tokens, kNoTarget));
    }
  }
}

}  // namespace

TrainInputs read_train_inputs(const config::Parsed& parsed, int ranks,
                              checkpoint::Catalog& catalog) {
  TrainInputs inputs;
  inputs.config = config::checked(adopt_model(parsed, catalog), ranks);
  const config::Data& data = inputs.config.data;
  inputs.corpora = data::Corpora::open(catalog.corpora(data.corpus), data.seq_len);
  inputs.eval_corpora = data::Corpora::open(catalog.corpora(data.eval_corpus), data.seq_len);
  // A plan needs no corpus.
  const bool known = inputs.corpora.size() > 0;
  if (known) {
    inputs.corpora.check_vocabulary_of(inputs.eval_corpora);
  }
  if (known || inputs.eval_corpora.size() > 0) {
    adopt_vocabulary(inputs.config, known ? inputs.corpora : inputs.eval_corpora);
  }
  if (known) {
    check_samples(inputs.config, inputs.corpora);
  }
  check_evaluation(inputs.config, inputs.eval_corpora);
  return inputs;
}

void check_targets(TrainInputs& inputs) {
  files::hdf5_run([&] {
    if (inputs.corpora.size() > 0) {
      check_training_targets(inputs.config, inputs.corpora);
    }
    check_evaluation_targets(inputs.config, inputs.eval_corpora);
  });
}

void adopt_origin(TrainInputs& inputs, const train::RunData& data, checkpoint::Catalog& catalog,
                  train::Origin& origin) {
  std::vector<std::string> tasks = train::Progress{}.tasks;
  const std::string path = origin.resume ? origin.resume->string() : inputs.config.model.path;
  if (!path.empty()) {
    origin.source = &catalog.model(path);
    checkpoint::ModelSource& source = *origin.source;
    refuse_quantized(source, "train from");
    if (origin.resume) {
      origin.resume = source.path();
      source.keep_adapters_apart();
      origin.progress =
          train::check_resume(source.checkpoint()->state(), inputs.config, data, source.path());
    } else {
      check_vocabulary(source, inputs.corpora.info(0));
      origin.progress.tasks = source.tasks();
      origin.progress.lineage = source.lineage();
      origin.progress.lineage.push_back(source.as_ancestor());
      origin.progress.special = source.special_tokens();
    }
    inputs.gates = checkpoint::gates_of(source, inputs.config);
    tasks = source.tasks();
  }
  train::add_special(inputs.corpora.info(0), origin.progress.special);
  inputs.corpora.join_tasks(tasks);
  inputs.eval_corpora.join_tasks(tasks);
  origin.progress.tasks = tasks;
  inputs.gates.tasks.assign(tasks.begin() + 1, tasks.end());
}

}  // namespace moesaic::cli
