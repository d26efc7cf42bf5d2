#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/document.h"

namespace moesaic::text {

/// Text to token ids and back. Three kinds: bytes (ids 0-255, eos 256, and bos 257 where it is
/// wanted), SentencePiece models, and a tokenizer.json of Hugging Face. Decoding gives the same
/// bytes back, whatever they are, for bytes, for the models that train_tokenizer makes, and for
/// byte-level vocabularies without a normaliser; special tokens are left out. Const members may be
/// called by many threads.
class Tokenizer {
 public:
  static Tokenizer bytes(bool with_bos = false);
  /// A SentencePiece .model, a tokenizer.json, or a Hugging Face folder. kNoInput, kBadData name
  /// it.
  static Tokenizer load(const std::filesystem::path& path);
  /// Whether one lies in the folder.
  static bool is_in(const std::filesystem::path& folder);
  /// What read_tokenizer gave; `name` is for messages.
  static Tokenizer from_model(std::string model, const std::string& name);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  std::vector<std::int32_t> encode(std::string_view text) const;
  struct Marked {
    std::vector<std::int32_t> tokens;
    std::vector<std::uint8_t> inside;  // of each token: 1 if it has a byte of one of the ranges
  };
  /// The same tokens. The text is UTF-8, and ranges, which ascend and do not overlap, end where
  /// characters do. Where a model changes the text first, a token has the bytes that it is made of.
  Marked encode_marked(std::string_view text, std::span<const TextRange> ranges) const;
  std::string decode(std::span<const std::int32_t> tokens) const;
  /// The bytes of one token within a text.
  std::string piece(std::int32_t token) const;

  std::int64_t vocab_size() const;
  std::int64_t eos_id() const;  // -1: none
  std::int64_t bos_id() const;  // -1: none
  const std::string& sha256() const;
  const std::string& model() const;  // the content of the file; empty for bytes
  std::string file_name() const;     // beside a manifest; empty for bytes

 private:
  struct State;
  explicit Tokenizer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// The content of a tokenizer's file: SentencePiece's .model or a tokenizer.json, in a Hugging Face
/// folder the latter if it has one. A tokenizer.json takes in the ids of bos and eos, from
/// tokenizer_config.json or else config.json beside it, so that it needs no other file. Throws
/// kNoInput, and kBadData for files that are wrong or contradict each other.
std::string read_tokenizer(const std::filesystem::path& path);

/// Trains a SentencePiece model (BPE with byte fallback) on texts of at most kMaxTrainingText bytes
/// each and returns the model file's content: the same for the same texts. A text that is too small
/// for vocab_size gives a smaller vocabulary. Takes about 1.3 s per MB.
constexpr std::int64_t kMaxTrainingText = 4000;
std::string train_tokenizer(const std::vector<std::string>& texts, std::int64_t vocab_size);

}  // namespace moesaic::text
