#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer_table.h"

namespace moesaic::text {

/// Byte-pair encoding (Sennrich et al. 2016): of all neighbouring symbols that a merge joins, the
/// merge learnt first (at several places, the leftmost) is done, until none is left. Symbols are
/// bytes (byte_level) or characters.
class Bpe {
 public:
  struct Options {
    bool byte_level = false;     // tokens are written in GPT-2's letters for bytes
    bool byte_fallback = false;  // a character without a token becomes its bytes <0x..>
    bool fuse_unk = false;       // neighbours without a token are one unknown
    bool ignore_merges = false;  // a word that is a token is not looked into
    std::int32_t unk = -1;       // for what has no token; -1: left out
  };
  struct Merge {
    std::int32_t left, right, product;
  };
  /// `tokens` by id, empty where an id is not used; `merges` in the order that they were learnt.
  Bpe(const std::vector<std::string>& tokens, const std::vector<Merge>& merges, Options options);

  /// Appends the tokens of a word: valid UTF-8, or for byte_level any bytes.
  void encode(std::string_view word, std::vector<std::int32_t>& tokens) const;

 private:
  void learn_whole_words();
  void learn_joints(const std::vector<Merge>& merges);
  void encode_symbols(std::string_view word, std::vector<std::int32_t>& tokens) const;
  void append_characters(std::string_view word, std::vector<std::int32_t>& tokens) const;
  bool append_bytes(std::string_view character, std::vector<std::int32_t>& tokens) const;
  std::size_t merge(std::int32_t* symbols, std::size_t count) const;
  std::size_t merge_few(std::int32_t* symbols, std::size_t count) const;
  std::size_t merge_many(std::int32_t* symbols, std::size_t count) const;
  std::uint64_t merge_of(std::int32_t left, std::int32_t right) const;

  Options options_;
  StringTable words_;                   // what each token stands for; empty: not reachable
  std::vector<bool> whole_;             // merging the word of this id gives this id alone
  FlatMap merges_;                      // left, right -> rank, product
  std::array<std::int32_t, 256> byte_;  // byte_level: of the byte; else of <0x..>; -1: none
  FlatMap joints_;                      // neighbouring characters within products of merges
  bool cuts_ = false;                   // words may be cut where no joint is
};

}  // namespace moesaic::text
