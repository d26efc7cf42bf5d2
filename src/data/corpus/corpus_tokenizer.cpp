#include "data/corpus/corpus_tokenizer.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/error.h"

namespace moesaic::data {

text::Tokenizer tokenizer_of(const CorpusInfo& corpus) {
  if (!corpus.tokenizer.empty()) {
    text::Tokenizer tokenizer = text::Tokenizer::load(corpus.tokenizer);
    if (tokenizer.sha256() != corpus.vocab_sha256) {
      throw Error(Exit::kBadData,
                  fmt::format("{} is not the tokenizer of corpus '{}' (sha256 {:.12}, the corpus "
                              "says {:.12}); copy it again from where the corpus was made",
                              std::filesystem::absolute(corpus.tokenizer).string(), corpus.name,
                              tokenizer.sha256(), corpus.vocab_sha256));
    }
    return tokenizer;
  }
  for (const bool with_bos : {false, true}) {
    text::Tokenizer tokenizer = text::Tokenizer::bytes(with_bos);
    if (tokenizer.sha256() == corpus.vocab_sha256) {
      return tokenizer;
    }
  }
  throw Error(Exit::kBadData, fmt::format("corpus '{}' does not say with which tokenizer it was "
                                          "made; make it with `moesaic tokenize`",
                                          corpus.name));
}

}  // namespace moesaic::data
