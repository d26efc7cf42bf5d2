#include <fmt/format.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "text/tokenizer.h"

namespace moesaic::text {
namespace {

constexpr std::int64_t kLeastVocab = 256 + 3 + 1;  // bytes; unk, bos, eos; one piece

class TextIterator : public sentencepiece::SentenceIterator {
 public:
  explicit TextIterator(const std::vector<std::string>& texts) : texts_(texts) {}
  bool done() const override { return next_ >= texts_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return texts_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& texts_;
  std::size_t next_ = 0;
};

// Lossless: no normalisation, no added or removed spaces, bytes for what has no piece. Line ends
// and runs of spaces become pieces of their own, as source code needs.
std::unordered_map<std::string, std::string> options(std::int64_t vocab_size) {
  return {{"model_type", "bpe"},
          {"vocab_size", std::to_string(vocab_size)},
          {"normalization_rule_name", "identity"},
          {"add_dummy_prefix", "false"},
          {"remove_extra_whitespaces", "false"},
          {"allow_whitespace_only_pieces", "true"},
          {"byte_fallback", "true"},
          {"character_coverage", "0.9995"},
          {"hard_vocab_limit", "false"},
          {"max_sentence_length", std::to_string(2 * kMaxTrainingText)},
          {"num_threads", "1"},
          {"minloglevel", "3"},
          {"unk_id", "0"},
          {"bos_id", "1"},
          {"eos_id", "2"},
          {"pad_id", "-1"}};
}

}  // namespace

std::string train_tokenizer(const std::vector<std::string>& texts, std::int64_t vocab_size) {
  if (vocab_size < kLeastVocab) {
    throw Error(Exit::kUsage, fmt::format("tokenize.vocab_size = {} is too small to train on: the "
                                          "256 bytes and 3 marks are in it; use {} or more",
                                          vocab_size, 2 * kLeastVocab));
  }
  TextIterator iterator(texts);
  std::string model;
  const auto status =
      sentencepiece::SentencePieceTrainer::Train(options(vocab_size), &iterator, &model);
  if (!status.ok()) {
    throw Error(Exit::kBadData,
                fmt::format("no vocabulary of {} could be trained on {} blocks of text: {}; give "
                            "more text, or another tokenize.vocab_size",
                            vocab_size, texts.size(), status.ToString()));
  }
  return model;
}

}  // namespace moesaic::text
