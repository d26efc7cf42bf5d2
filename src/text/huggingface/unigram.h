#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer_table.h"

namespace moesaic::text {

/// The unigram language model (Kudo 2018): of all ways to write a word as tokens, the one with the
/// largest sum of log-probabilities. A character without a token costs 10 more than the rarest
/// token.
class Unigram {
 public:
  struct Options {
    bool byte_fallback =
        false;              // what is unknown becomes bytes <0x..>, where there are all of them
    std::int32_t unk = -1;  // -1: a character without a token is an error
  };
  /// `tokens` and their log-probabilities by id.
  Unigram(const std::vector<std::string>& tokens, std::vector<double> scores, Options options);

  /// Appends the tokens of a word in valid UTF-8.
  void encode(std::string_view word, std::vector<std::int32_t>& tokens) const;

 private:
  void append_unknown(std::string_view text, std::vector<std::int32_t>& tokens) const;

  Options options_;
  StringTable words_;
  std::vector<double> scores_;
  double unk_score_ = 0;
  Trie trie_;
  std::array<std::int32_t, 256> byte_;  // of <0x..>; -1: none
};

}  // namespace moesaic::text
