#include "cli/train_inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "checkpoint/gate_state.h"
#include "cli/checkpoint_model.h"
#include "config/layers.h"
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
  const std::vector<std::int64_t> counts = data::stream_samples(corpora, config.data.seq_len);
  if (std::accumulate(counts.begin(), counts.end(), std::int64_t{0}) == 0) {
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

void check_training_targets(const config::Config& config, data::Samples& samples) {
  const std::vector<std::int64_t> counts = samples.counts();
  for (std::size_t group = 0; group < counts.size(); ++group) {
    for (std::int64_t i = 0; i < counts[group]; ++i) {
      if (samples.has_target(samples.at(group, i))) {
        return;
      }
    }
  }
  throw Error(Exit::kNoInput,
              fmt::format("data.corpus: {} {}", join(config.data.corpus, ", "), kNoTarget));
}

void check_evaluation(const config::Config& config, const data::Corpora& corpora) {
  const std::vector<std::int64_t> counts = data::stream_samples(corpora, config.data.seq_len);
  for (std::size_t c = 0; c < corpora.size(); ++c) {
    if (counts[c] == 0) {
      throw Error(Exit::kNoInput,
                  fmt::format("data.eval_corpus: {} has {}: leave it out",
                              config.data.eval_corpus[c], too_short(config, corpora.info(c))));
    }
  }
}

void check_evaluation_targets(const config::Config& config, data::Samples& samples) {
  const train::EvaluationSamples chosen(samples, config);
  std::vector<bool> measured(samples.counts().size());
  for (std::int64_t number = 0; number < chosen.size(); ++number) {
    const data::SampleDraw draw = chosen.at(number);
    measured[draw.group] =
        measured[draw.group] || samples.has_target(samples.at(draw.group, draw.index));
  }
  for (std::size_t c = 0; c < measured.size(); ++c) {
    if (!measured[c]) {
      throw Error(
          Exit::kNoInput,
          fmt::format("data.eval_corpus: what an evaluation reads of {} (eval.tokens = {}) {}",
                      config.data.eval_corpus[c], config.eval.tokens, kNoTarget));
    }
  }
}

// How documents become samples is said where none is left.
void check_units(const std::string& key, const std::vector<std::string>& paths,
                 const std::vector<double>& weights, const data::Samples& samples) {
  const std::vector<std::int64_t> counts = samples.counts();
  const bool none = samples.drawable() == 0;
  for (std::size_t c = 0; c < counts.size(); ++c) {
    const bool wanted = key == "data.eval_corpus" || (!weights.empty() && weights[c] > 0.0);
    if (none || (wanted && counts[c] == 0)) {
      const data::DocumentCounts documents = none ? samples.documents() : samples.documents_of(c);
      throw Error(
          Exit::kBadData,
          fmt::format("{}: no document is left of {}: documents {}; {}", key,
                      none ? join(paths, ", ") : paths[c], documents.text(),
                      documents.dropped > 0
                          ? "raise data.seq_len, or cut them with data.truncate=end"
                          : "documents of one token, all context or without spans have nothing to "
                            "predict"));
    }
  }
}

// Conversations and other text with targets of its own are few beside what a published model has
// seen: its router keeps what it has learned, unless its keys are set.
void keep_router(const config::Parsed& parsed, TrainInputs& inputs) {
  config::Config& config = inputs.config;
  bool masked = false;
  for (std::size_t c = 0; c < inputs.corpora.size(); ++c) {
    masked = masked || inputs.corpora.info(c).spans;
  }
  if (config.model.path.empty() || !masked || config::moe_layers(config.model).empty()) {
    return;
  }
  const auto& factors = config.train.lr_scale;
  const bool named = parsed.locations.contains("router.aux_loss") || !config.run.control.empty() ||
                     config.router.gradient_buffer > 0 ||
                     std::any_of(factors.begin(), factors.end(),
                                 [](const auto& factor) { return factor.first == "router"; });
  std::vector<std::string> kept;
  if (!parsed.locations.contains("router.aux_loss")) {
    config.router.aux_loss = 0.0;
    kept.emplace_back("router.aux_loss = 0");
  }
  if (config.train.trainable.empty() && !named) {
    config.train.trainable = {"all", "!router"};
    kept.emplace_back("train.trainable = all,!router");
  }
  if (!kept.empty()) {
    log::info(
        fmt::format("the corpus names its targets, and model.path is set: {}", join(kept, ", ")));
  }
}

}  // namespace

TrainInputs read_train_inputs(const config::Parsed& parsed, int ranks,
                              checkpoint::Catalog& catalog) {
  TrainInputs inputs;
  inputs.config = config::checked(adopt_model(parsed, catalog), ranks);
  const config::Data& data = inputs.config.data;
  inputs.corpora = data::Corpora::open(catalog.corpora(data.corpus));
  inputs.eval_corpora = data::Corpora::open(catalog.corpora(data.eval_corpus));
  keep_router(parsed, inputs);
  // A plan needs no corpus.
  const bool known = inputs.corpora.size() > 0;
  if (known) {
    inputs.corpora.check_vocabulary_of(inputs.eval_corpora);
  }
  if (known || inputs.eval_corpora.size() > 0) {
    adopt_vocabulary(inputs.config, known ? inputs.corpora : inputs.eval_corpora);
  }
  if (data.samples == config::Samples::kStream) {
    if (known) {
      check_samples(inputs.config, inputs.corpora);
    }
    check_evaluation(inputs.config, inputs.eval_corpora);
  }
  return inputs;
}

void find_samples(TrainInputs& inputs, const comm::Communicator& world) {
  config::Config& config = inputs.config;
  config::Data all = config.data;
  all.corpus_weights.clear();
  all.task_weights.clear();
  inputs.samples =
      data::Samples::make(inputs.corpora, inputs.corpora.size() > 0 ? config.data : all, world);
  inputs.eval_samples = data::Samples::make(inputs.eval_corpora, all, world);
  if (config.data.samples == config::Samples::kDocuments) {
    world.together("look for documents", [&] {
      check_units("data.corpus", config.data.corpus, config.data.corpus_weights, inputs.samples);
      check_units("data.eval_corpus", config.data.eval_corpus, {}, inputs.eval_samples);
    });
  }
  if (config.train.epochs > 0.0) {
    config::set_epoch(config, inputs.samples.drawable());
  }
}

std::vector<std::vector<std::string>> document_rows(const TrainInputs& inputs) {
  std::vector<std::vector<std::string>> rows;
  const auto add = [&rows](const char* name, const data::Samples& samples) {
    const data::DocumentCounts documents = samples.documents();
    if (documents.documents > 0) {
      rows.push_back({name, fmt::format("{}: {} samples of at most {} rows", documents.text(),
                                        samples.drawable(), samples.most_rows())});
    }
  };
  add("documents", inputs.samples);
  add("eval documents", inputs.eval_samples);
  return rows;
}

void check_targets(TrainInputs& inputs) {
  if (inputs.config.data.samples == config::Samples::kDocuments) {
    return;  // each sample has some
  }
  files::hdf5_run([&] {
    if (inputs.corpora.size() > 0) {
      check_training_targets(inputs.config, inputs.samples);
    }
    check_evaluation_targets(inputs.config, inputs.eval_samples);
  });
}

void adopt_origin(TrainInputs& inputs, const train::RunData& data, checkpoint::Catalog& catalog,
                  train::Origin& origin) {
  std::vector<std::string> tasks = train::Progress{}.tasks;
  const std::string path = origin.resume ? origin.resume->string() : inputs.config.model.path;
  if (!path.empty()) {
    origin.source = origin.resume ? &catalog.model(path) : &catalog.model(inputs.config.model);
    checkpoint::ModelSource& source = *origin.source;
    refuse_quantized(source, "train from");
    if (origin.resume) {
      origin.resume = source.path();
      source.keep_adapters_apart();
      if (inputs.config.checkpoint.content == config::Content::kTrained &&
          source.lineage().empty()) {
        throw Error(
            Exit::kUsage,
            fmt::format("checkpoint.content = trained needs a base, but {} is of a run that "
                        "began without one: use checkpoint.content = all",
                        source.path().string()));
      }
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
