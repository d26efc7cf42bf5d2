#include "cli/checkpoint_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "config/compare.h"
#include "data/corpus/corpus_tokenizer.h"
#include "text/tokenizer.h"

namespace moesaic::cli {

void refuse_quantized(const checkpoint::ModelSource& source, std::string_view what) {
  if (const auto type = source.quantized()) {
    throw Error(Exit::kUsage,
                fmt::format("{} has its weights in {} alone, for score and generate: {} the "
                            "checkpoint or folder that it was made of",
                            source.path().string(), name_of(*type), what));
  }
}

namespace {

// Weights that were stored quantized are kept so.
void adopt_quantized(const checkpoint::ModelSource& source, config::Parsed& parsed) {
  const auto type = source.quantized();
  if (!type) {
    return;
  }
  std::optional<DType>& key = parsed.config.run.quantize;
  const auto location = parsed.locations.find("run.quantize");
  if (location != parsed.locations.end() && key != type) {
    throw Error(Exit::kUsage,
                fmt::format("{}: run.quantize = {}, but {} has its weights in {} alone: leave the "
                            "key out, or use the checkpoint or folder that it was made of",
                            location->second, key ? name_of(*key) : "none", source.path().string(),
                            name_of(*type)));
  }
  key = type;
}

}  // namespace

config::Parsed adopt_model(config::Parsed parsed, checkpoint::Catalog& catalog) {
  if (parsed.config.model.path.empty()) {
    return parsed;
  }
  const checkpoint::ModelSource& source = catalog.model(parsed.config.model);
  const bool trains =
      parsed.job == "train" || (parsed.job == "plan" && parsed.config.plan.job == "train");
  if (trains || parsed.job == "convert") {
    refuse_quantized(source, trains ? "train from" : "convert");
  }
  adopt_quantized(source, parsed);
  std::vector<std::string> contradictions;
  config::Flat flat = config::flatten(parsed.config);
  const config::Flat stored = config::flatten(source.config());  // the same keys
  for (std::size_t i = 0; i < flat.size(); ++i) {
    auto& [key, value] = flat[i];
    const std::string& theirs = stored[i].second;
    const bool of_model =
        key.starts_with("model.") && key != "model.path" && key != "model.adapter";
    const bool was_set = parsed.locations.contains(key);
    if (of_model && was_set && value != theirs) {
      contradictions.push_back(fmt::format("{}: {} = {}, but {} has {}", parsed.locations.at(key),
                                           key, value, source.path().string(), theirs));
    }
    if (of_model || (key.starts_with("router.") && !was_set)) {
      value = theirs;
    }
  }
  if (!contradictions.empty()) {
    throw Error(Exit::kUsage, join(contradictions, "\n"));
  }
  parsed.config = config::unflatten(flat);
  return parsed;
}

void check_folder(checkpoint::ModelSource& source, const comm::Communicator& world) {
  hf::HfFolder* const folder = source.folder();
  if (folder == nullptr || !world.is_root()) {
    return;
  }
  folder->check();
  for (const std::string& note : folder->config().notes) {
    log::info(fmt::format("{}: {}", source.path().string(), note));
  }
  const std::size_t extra = folder->left_out().size();
  if (extra > 0) {
    log::info(fmt::format("{}: {} tensors of layers for multi-token prediction are left out",
                          source.path().string(), extra));
  }
}

namespace {

// A Hugging Face folder's tokenizer may be another file than the corpus's, but not number the
// tokens otherwise: texts of some ids are compared, of which a few may be special to one of them.
void check_tokens(const std::filesystem::path& folder, const data::CorpusInfo& corpus) {
  constexpr std::int64_t kSample = 1000, kFew = 10;  // one in kFew
  std::optional<text::Tokenizer> theirs, ours;
  try {
    theirs = text::Tokenizer::load(folder);
    ours = data::tokenizer_of(corpus);
  } catch (const Error& error) {
    if (error.code() == Exit::kIoError) {
      throw;
    }
    log::info(fmt::format("the tokenizers of {} and {} are not compared: {}", folder.string(),
                          corpus.name, error.what()));
    return;
  }
  if (theirs->sha256() == ours->sha256()) {
    return;
  }
  const std::int64_t common = std::min(theirs->vocab_size(), ours->vocab_size());
  const std::int64_t sample = std::min(kSample, common);
  std::int64_t differ = 0;
  std::int32_t first = -1;
  for (std::int64_t i = 0; i < sample; ++i) {
    const auto id = static_cast<std::int32_t>(i * common / sample);
    if (theirs->piece(id) != ours->piece(id)) {
      first = differ++ == 0 ? id : first;
    }
  }
  if (differ > sample / kFew) {
    throw Error(Exit::kBadData,
                fmt::format("{} was made with another tokenizer than that of {}: of {} ids {} mean "
                            "other texts, the first of them {}; tokenize the text again with "
                            "--tokenize.tokenizer {}",
                            corpus.name, folder.string(), sample, differ, first, folder.string()));
  }
}

std::string vocabulary_text(std::int64_t size, const std::string& hash) {
  const std::string tokens = counted(size, "token");
  return hash.empty() ? tokens : fmt::format("{} ({:.12})", tokens, hash);
}

}  // namespace

void check_vocabulary(checkpoint::ModelSource& source, const data::CorpusInfo& corpus) {
  const std::string hash = source.vocab_sha256();
  const std::int64_t size = source.config().model.vocab_size;
  const bool unknown = hash.empty() || corpus.vocab_sha256.empty();
  const bool same_hash = unknown || hash == corpus.vocab_sha256;
  // An embedding that came from a Hugging Face folder may have more rows.
  const bool more_rows = hash.empty() || (!unknown && same_hash);
  const bool fits = more_rows ? corpus.vocab_size <= size : corpus.vocab_size == size;
  if (!same_hash || !fits) {
    throw Error(Exit::kBadData,
                fmt::format("{} has a vocabulary of {}, {} was trained with {}: tokenize the text "
                            "with --tokenize.tokenizer {}",
                            corpus.name, vocabulary_text(corpus.vocab_size, corpus.vocab_sha256),
                            source.path().string(), vocabulary_text(size, hash),
                            text::Tokenizer::is_in(source.path())
                                ? source.path().string()
                                : "MODEL, the folder that the model's tokenizer is in"));
  }
  if (hash.empty() && !corpus.vocab_sha256.empty() && text::Tokenizer::is_in(source.path())) {
    check_tokens(source.path(), corpus);
  }
}

}  // namespace moesaic::cli
