#include "train/resume.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "base/version.h"
#include "checkpoint/checkpoint.h"
#include "config/compare.h"
#include "config/enum_names.h"
#include "config/layers.h"

namespace moesaic::train {
namespace {

bool allowed(const std::vector<std::string>& allow, const std::string& key) {
  return std::any_of(allow.begin(), allow.end(), [&](const std::string& entry) {
    return key == entry || key.starts_with(entry + ".");
  });
}

// What is trained stays so in a run: its checkpoints have no moments of anything else.
bool is_of_roles(const std::string& key) {
  return key == "train.trainable" || key.starts_with("adapter.");
}

// The id of the Slurm job, which stays when Slurm starts the job again. A job that follows one that
// could not be put back into the queue has the id of the first (slurm/common.sh). Empty: none.
std::string job_id() {
  for (const char* const name : {"MOESAIC_JOB", "SLURM_JOB_ID"}) {
    if (const char* const id = std::getenv(name)) {
      return id;
    }
  }
  return {};
}

bool is_restart() {
  for (const char* const name : {"MOESAIC_RESTARTS", "SLURM_RESTART_COUNT"}) {
    const char* const restarts = std::getenv(name);
    if (restarts != nullptr && std::string_view(restarts) != "0") {
      return true;
    }
  }
  return false;
}

// A job that Slurm starts again has the command of its first start: it goes on from what it has
// saved since.
std::optional<std::filesystem::path> saved_since(const config::Checkpoint& config) {
  if (!is_restart() || job_id().empty()) {
    return std::nullopt;
  }
  const auto complete = checkpoint::complete_checkpoints(config.dir);
  if (complete.empty()) {
    return std::nullopt;
  }
  const auto reader = checkpoint::CheckpointReader::open(complete.back());
  return reader.state().value("job", "") == job_id() ? std::optional(reader.path()) : std::nullopt;
}

using Texts = std::vector<RunData::Text>;

Json to_json(const Texts& texts) {
  Json list = Json::array();
  for (const RunData::Text& text : texts) {
    list.push_back({{"fingerprint", text.fingerprint}, {"tokens", text.tokens}});
  }
  return list;
}

// Nothing: an older checkpoint does not say it.
Texts texts_of(const Json& state) {
  Texts texts;
  for (const Json& entry : state.value("corpora", Json::array())) {
    texts.push_back({entry.at("fingerprint").string(), entry.at("tokens").get<std::int64_t>()});
  }
  return texts;
}

// "corpus/train (5000 tokens, fingerprint 0123456789ab)"
std::string described(const std::vector<std::string>& paths, const Texts& texts) {
  std::vector<std::string> all;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    all.push_back(i < texts.size() ? fmt::format("{} ({} tokens, fingerprint {:.12})", paths[i],
                                                 texts[i].tokens, texts[i].fingerprint)
                                   : paths[i]);
  }
  return join(all, ", ");
}

}  // namespace

RunData data_of(const data::Corpora& corpora) {
  RunData data{.vocab_sha256 = corpora.vocab_sha256()};
  for (std::size_t c = 0; c < corpora.size(); ++c) {
    data.corpora.push_back({data::data_fingerprint(corpora.info(c)), corpora.info(c).tokens});
  }
  return data;
}

void add_special(const data::CorpusInfo& corpus, hf::SpecialTokens& special) {
  const auto add = [](std::int64_t token, std::vector<std::int32_t>& tokens) {
    if (tokens.empty() && token >= 0) {
      tokens.push_back(static_cast<std::int32_t>(token));
    }
  };
  add(corpus.bos_id, special.bos);
  add(corpus.eos_id, special.eos);
}

std::shared_ptr<const Json> to_state(const Progress& progress, const config::Config& config,
                                     const routing::GateState& gates, const std::string& layout,
                                     const RunData& data) {
  Json flat;
  for (const auto& [key, value] : config::flatten(config)) {
    flat[key] = value;
  }
  std::vector<std::string> pool;
  const auto layers = std::ssize(config::moe_layers(config.model));
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    pool.push_back(routing::expert_pool_of(config.model, config.router, gates, layer));
  }
  const Json state{{"step", progress.step},
                   {"cursor", progress.cursor},
                   {"tokens", progress.tokens},
                   {"evaluation_due", progress.evaluation_due},
                   {"task_names", progress.tasks},
                   {"begin_tokens", progress.special.bos},
                   {"end_tokens", progress.special.eos},
                   {"control", progress.control},
                   {"losses", progress.losses},
                   {"save_seconds", progress.save_seconds},
                   {"pool", pool},
                   {"config", flat},
                   {"layout", layout},
                   {"lineage", checkpoint::to_json(progress.lineage)},
                   {"content", config::name_of(config.checkpoint.content)},
                   {"objective", progress.objective},
                   {"job", job_id()},
                   {"vocab_sha256", data.vocab_sha256},
                   {"corpora", to_json(data.corpora)},
                   {"program_version", version()},
                   {"git_hash", git_hash()}};
  const auto all = std::make_shared<Json>(state);
  if (config.train.epochs > 0.0) {
    (*all)["epoch_samples"] = config.train.epoch_samples;
  }
  return all;
}

Progress from_state(const Json& state) {
  return {.step = state.at("step").get<std::int64_t>(),
          .cursor = state.at("cursor").get<std::int64_t>(),
          .tokens = state.at("tokens").get<std::int64_t>(),
          .evaluation_due = state.value("evaluation_due", false),
          .tasks = state.at("task_names").get<std::vector<std::string>>(),
          .special = {state.value("begin_tokens", std::vector<std::int32_t>{}),
                      state.value("end_tokens", std::vector<std::int32_t>{})},
          .control = state.value("control", ""),
          .losses = state.value("losses", std::vector<double>{}),
          .save_seconds = state.value("save_seconds", 0.0),
          .lineage = checkpoint::lineage_of(state),
          .objective = state.value("objective", "lm")};
}

std::optional<std::filesystem::path> checkpoint_to_resume(const config::Checkpoint& config) {
  if (config.resume != "auto") {
    if (auto since = saved_since(config)) {
      return since;
    }
    return config.resume == "none"
               ? std::nullopt
               : std::optional(checkpoint::CheckpointReader::open(config.resume).path());
  }
  if (config.dir.empty()) {
    return std::nullopt;
  }
  const auto complete = checkpoint::complete_checkpoints(config.dir);
  return complete.empty() ? std::nullopt : std::optional(complete.back());
}

config::Config config_of(const Json& state) {
  config::Flat flat;
  for (const auto& [key, value] : state.at("config").items()) {
    flat.emplace_back(key, value.get<std::string>());
  }
  config::Config config = config::unflatten(flat);
  config.train.epoch_samples = state.value("epoch_samples", std::int64_t{0});
  return config;
}

namespace {

// Keys that may not change. The text decides about data.corpus, where it is known, not its path.
std::vector<config::Difference> differences(const Json& state, const config::Config& config,
                                            const RunData& data) {
  const config::Config was = config_of(state);
  std::vector<config::Difference> all = config::differences(was, config);
  std::erase_if(all, [](const auto& d) { return config::may_change_on_resume(d.key); });
  const Texts texts = texts_of(state);
  if (!texts.empty()) {
    std::erase_if(all, [](const auto& d) { return d.key == "data.corpus"; });
    if (texts != data.corpora) {
      all.push_back({"data.corpus", described(was.data.corpus, texts),
                     described(config.data.corpus, data.corpora)});
    }
  }
  return all;
}

}  // namespace

Progress check_resume(const Json& state, const config::Config& config, const RunData& data,
                      const std::filesystem::path& path) {
  Progress progress = from_state(state);
  std::vector<std::vector<std::string>> refused = {{"key", "was", "is"}};
  std::vector<std::string> passed;
  bool other_data = false;
  for (const config::Difference& d : differences(state, config, data)) {
    if (allowed(config.checkpoint.allow, d.key) && !is_of_roles(d.key)) {
      passed.push_back(fmt::format("{}: {} -> {}", d.key, d.was, d.is));
      other_data = other_data || d.key.starts_with("data.");
    } else {
      refused.push_back({d.key, d.was, d.is});
    }
  }
  if (refused.size() > 1) {
    throw Error(Exit::kMismatch,
                fmt::format("{} belongs to a run with another config:\n{}Change these back, start "
                            "anew in another run.dir (with model.path = {}), or let them pass with "
                            "checkpoint.allow=KEY (but what is trained, which stays in a run)",
                            path.string(), table(refused), path.string()));
  }
  const std::string stored_vocab = state.at("vocab_sha256").string();
  if (stored_vocab != data.vocab_sha256) {
    throw Error(Exit::kMismatch,
                fmt::format("{}: its vocabulary has SHA-256 {}, the corpus's has {}: continue with "
                            "a corpus of the same tokenizer",
                            path.string(), stored_vocab, data.vocab_sha256));
  }
  if (texts_of(state).empty()) {
    log::warn(
        fmt::format("{} does not say which text it was trained on: that it is still the same "
                    "is not checked",
                    path.string()));
  }
  if (other_data) {
    progress.cursor = 0;
    const char* const message = "other data: they are drawn from their first sample on";
    progress.notes.push_back({"data_begins_again", message});
    log::warn(fmt::format("{}: {}", path.string(), message));
  }
  if (!passed.empty()) {
    progress.notes.push_back({"config_changed", join(passed, "; ")});
  }
  return progress;
}

}  // namespace moesaic::train
