#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/document.h"
#include "text/huggingface/tokenizer_json.h"

namespace moesaic::text {

/// A tokenizer.json, as the tokenizers package of Hugging Face writes it: added tokens, normaliser,
/// pre-tokenizer, model and decoder. Encoding gives what the package gives without special tokens
/// (its post-processor, padding and truncation are not used). Bytes that are not UTF-8 become their
/// byte tokens if the vocabulary is byte-level, else U+FFFD.
class HuggingFaceTokenizer {
 public:
  HuggingFaceTokenizer(const std::string& content, const std::string& name);

  void encode(std::string_view text, std::vector<std::int32_t>& tokens) const;
  /// The same of valid text, and of each token whether it has a byte of one of the ranges.
  void encode_marked(std::string_view text, std::span<const TextRange> ranges,
                     std::vector<std::int32_t>& tokens, std::vector<std::uint8_t>& inside) const;
  /// Without special tokens. Where the package writes U+FFFD for bytes that are not UTF-8, the
  /// bytes stay.
  std::string decode(std::span<const std::int32_t> tokens) const;

  std::int64_t vocab_size() const { return std::ssize(texts_); }
  std::int64_t eos_id() const { return eos_id_; }
  std::int64_t bos_id() const { return bos_id_; }

 private:
  HuggingFaceTokenizer(const Json& file, const std::string& name);
  HuggingFaceTokenizer(const Json& file, Vocabulary vocabulary, const std::string& name);
  void encode_valid(std::string_view text, std::vector<std::int32_t>& tokens) const;
  void encode_word(std::string_view word, std::vector<std::int32_t>& tokens) const;
  /// word(text) for each word and added(text, id) for each normalised token of a part that no other
  /// added token is in; first: the text begins with it.
  template <class Word, class Added>
  void cut_part(std::string_view part, bool first, Word&& word, Added&& added) const;
  bool keeps_bytes(std::string_view part) const;
  void mark_part(std::string_view part, bool first, std::span<const TextRange> ranges,
                 std::vector<std::int32_t>& tokens, std::vector<std::uint8_t>& inside) const;
  void take_texts(Vocabulary vocabulary);

  Words words_;
  std::vector<NormalizeStep> normalizer_;
  std::vector<DecodeStep> decoder_;
  std::int64_t eos_id_ = -1, bos_id_ = -1;
  TokenModel model_;
  AddedTokens raw_added_, normalized_added_;  // looked for before and after normalising
  std::vector<std::string> texts_;            // of each id, in the letters of the model
  std::vector<bool> skipped_;                 // special: not decoded
};

}  // namespace moesaic::text
