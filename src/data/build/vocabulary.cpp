#include "data/build/vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"

namespace moesaic::data {

namespace fs = std::filesystem;
using config::Tri;

namespace {

void check_marks(const text::Tokenizer& tokenizer, const config::Tokenize& config) {
  if (config.bos == Tri::kOn && tokenizer.bos_id() < 0) {
    throw Error(Exit::kUsage, fmt::format("tokenize.bos = 1, but {} has no bos; use 0 or auto",
                                          config.tokenizer));
  }
  if (config.eos != Tri::kOff && tokenizer.eos_id() < 0) {
    throw Error(
        Exit::kUsage,
        fmt::format("{} has no eos to end documents with; use tokenize.eos = 0", config.tokenizer));
  }
}

}  // namespace

std::optional<text::Tokenizer> open_tokenizer(const config::Tokenize& config,
                                              const comm::Communicator& world) {
  std::optional<text::Tokenizer> tokenizer;
  if (config.tokenizer == "train") {
    return tokenizer;
  }
  std::string model;
  world.together("open the tokenizer", [&] {
    if (config.tokenizer != "byte" && world.is_root()) {
      model = text::read_tokenizer(config.tokenizer);
    }
  });
  world.broadcast(model, 0);
  world.together("open the tokenizer", [&] {
    tokenizer = config.tokenizer == "byte"
                    ? text::Tokenizer::bytes(config.bos == Tri::kOn)
                    : text::Tokenizer::from_model(model, fs::absolute(config.tokenizer).string());
    check_marks(*tokenizer, config);
  });
  return tokenizer;
}

text::Tokenizer train_vocabulary(const std::vector<TextSample>& sample,
                                 const config::Tokenize& config, const comm::Communicator& world) {
  std::string packed;
  for (const auto& [key, text] : sample) {
    packed += fmt::format("{:016x}{:08x}", key, text.size()) + text;
  }
  std::vector<TextSample> drawn;
  for (const std::string& part : world.gather(packed, 0)) {
    for (std::size_t at = 0; at < part.size();) {
      const std::size_t size = std::stoull(part.substr(at + 16, 8), nullptr, 16);
      drawn.emplace_back(std::stoull(part.substr(at, 16), nullptr, 16), part.substr(at + 24, size));
      at += 24 + size;
    }
  }
  std::sort(drawn.begin(), drawn.end());
  drawn.erase(std::unique(drawn.begin(), drawn.end()), drawn.end());
  std::string model;
  world.together("train the vocabulary", [&] {
    if (world.is_root()) {
      std::vector<std::string> texts;
      std::int64_t bytes = 0;
      for (TextSample& each : drawn) {
        bytes += std::ssize(each.second);
        if (bytes > kSampleBytes) {
          break;
        }
        texts.push_back(std::move(each.second));
      }
      log::info(fmt::format("training a vocabulary of {} on {} blocks of text", config.vocab_size,
                            texts.size()));
      model = text::train_tokenizer(texts, config.vocab_size);
    }
  });
  world.broadcast(model, 0);
  text::Tokenizer tokenizer = text::Tokenizer::from_model(model, "the trained vocabulary");
  if (world.is_root() && tokenizer.vocab_size() < config.vocab_size) {
    log::warn(
        fmt::format("the text has no more than {} tokens in it: the vocabulary is smaller "
                    "than tokenize.vocab_size = {}",
                    tokenizer.vocab_size(), config.vocab_size));
  }
  return tokenizer;
}

std::string settings_of(const config::Tokenize& config,
                        const std::optional<text::Tokenizer>& tokenizer) {
  Json settings = {{"tokenizer", tokenizer ? tokenizer->sha256() : "train"},
                   {"vocab_size", tokenizer ? 0 : config.vocab_size},
                   {"shards", config.shards},
                   {"compress", config.compress},
                   {"holdout", config.holdout},
                   {"bos", static_cast<int>(config.bos)},
                   {"eos", static_cast<int>(config.eos)}};
  if (config.unique != Tri::kAuto) {  // corpora that are older than the key stay as they are
    settings["unique"] = static_cast<int>(config.unique);
  }
  return settings.dump();
}

}  // namespace moesaic::data
