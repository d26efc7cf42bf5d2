#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/document.h"
#include "text/tokenizer_table.h"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace moesaic::text {

/// A SentencePiece .model. Decoding gives the same bytes back, whatever they are, for models that
/// have the 256 bytes and change nothing, such as train_tokenizer makes.
class SentencePieceTokenizer {
 public:
  SentencePieceTokenizer(const std::string& model, const std::string& name);
  SentencePieceTokenizer(SentencePieceTokenizer&&) noexcept;
  SentencePieceTokenizer& operator=(SentencePieceTokenizer&&) noexcept;
  ~SentencePieceTokenizer();

  void encode(std::string_view text, std::vector<std::int32_t>& tokens) const;
  /// The same, and which bytes of the text each token is made of.
  void encode_places(std::string_view text, std::vector<std::int32_t>& tokens,
                     std::vector<TextRange>& places) const;
  std::string decode(std::span<const std::int32_t> tokens) const;

  std::int64_t vocab_size() const;
  std::int64_t eos_id() const;  // -1: none
  std::int64_t bos_id() const;  // -1: none

 private:
  void scan_pieces();
  struct Sink;
  void encode_into(std::string_view text, Sink& sink) const;
  void encode_run(std::string_view text, Sink& sink) const;
  void append_piece(std::int32_t token, std::string& text) const;
  void learn_joints(const std::string& piece);
  bool joins_newline_at(char next) const;
  bool may_cut_at(std::string_view text, std::size_t at) const;

  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
  bool exact_ = false;  // has bytes and changes nothing: any text survives
  bool dummy_prefix_ = false;
  std::array<std::int32_t, 256> byte_id_{};  // of the byte pieces
  std::array<bool, 256> joins_newline_{};    // some piece has this byte right after a '\n'
  FlatMap joints_;                           // characters that stand side by side in some piece
};

}  // namespace moesaic::text
