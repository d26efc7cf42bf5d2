#include "text/tokenizer.h"

#include <fmt/format.h>

#include <variant>

#include "base/error.h"
#include "base/sha256.h"
#include "text/huggingface/tokenizer.h"
#include "text/sentencepiece.h"

namespace moesaic::text {
namespace {

std::string sha256_of(std::string_view text) {
  return Sha256::of(std::as_bytes(std::span(text.data(), text.size())));
}

/// Each byte is its own id; 256 is eos, 257 bos.
class ByteTokenizer {
 public:
  explicit ByteTokenizer(bool with_bos) : with_bos_(with_bos) {}

  static void encode(std::string_view text, std::vector<std::int32_t>& tokens) {
    for (const char byte : text) {
      tokens.push_back(static_cast<unsigned char>(byte));
    }
  }
  static void encode_places(std::string_view text, std::vector<std::int32_t>& tokens,
                            std::vector<TextRange>& places) {
    encode(text, tokens);
    for (std::int64_t i = 0; i < std::ssize(text); ++i) {
      places.push_back({i, i + 1});
    }
  }
  static std::string decode(std::span<const std::int32_t> tokens) {
    std::string text;
    for (const std::int32_t token : tokens) {
      if (token < 256) {
        text += static_cast<char>(token);
      }
    }
    return text;
  }
  std::int64_t vocab_size() const { return with_bos_ ? 258 : 257; }
  static std::int64_t eos_id() { return 256; }
  std::int64_t bos_id() const { return with_bos_ ? 257 : -1; }

 private:
  bool with_bos_;
};

bool is_json(std::string_view model) { return model.starts_with('{'); }

}  // namespace

struct Tokenizer::State {
  std::variant<ByteTokenizer, SentencePieceTokenizer, HuggingFaceTokenizer> kind;
  std::string sha256, model;
};

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::bytes(bool with_bos) {
  return Tokenizer(std::make_unique<State>(
      State{ByteTokenizer(with_bos), sha256_of(with_bos ? "bytes eos bos" : "bytes eos"), ""}));
}

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  return from_model(read_tokenizer(path), std::filesystem::absolute(path).string());
}

bool Tokenizer::is_in(const std::filesystem::path& folder) {
  return std::filesystem::exists(folder / "tokenizer.json") ||
         std::filesystem::exists(folder / "tokenizer.model");
}

Tokenizer Tokenizer::from_model(std::string model, const std::string& name) {
  std::string sha256 = sha256_of(model);
  if (is_json(model)) {
    HuggingFaceTokenizer kind(model, name);
    return Tokenizer(
        std::make_unique<State>(State{std::move(kind), std::move(sha256), std::move(model)}));
  }
  SentencePieceTokenizer kind(model, name);
  return Tokenizer(
      std::make_unique<State>(State{std::move(kind), std::move(sha256), std::move(model)}));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> tokens;
  std::visit([&](const auto& kind) { kind.encode(text, tokens); }, state_->kind);
  return tokens;
}

Tokenizer::Marked Tokenizer::encode_marked(std::string_view text,
                                           std::span<const TextRange> ranges) const {
  Marked marked;
  if (const auto* const kind = std::get_if<HuggingFaceTokenizer>(&state_->kind)) {
    kind->encode_marked(text, ranges, marked.tokens, marked.inside);
    return marked;
  }
  std::vector<TextRange> places;
  if (const auto* const kind = std::get_if<SentencePieceTokenizer>(&state_->kind)) {
    kind->encode_places(text, marked.tokens, places);
  } else {
    ByteTokenizer::encode_places(text, marked.tokens, places);
  }
  for (const TextRange& place : places) {
    marked.inside.push_back(overlaps(ranges, place) ? 1 : 0);
  }
  return marked;
}

// What it adds to the text of another token, as a first one may lose its space.
std::string Tokenizer::piece(std::int32_t token) const {
  std::vector<std::int32_t> tokens = encode("a");
  const std::size_t before = decode(tokens).size();
  tokens.push_back(token);
  return decode(tokens).substr(before);
}

std::string Tokenizer::decode(std::span<const std::int32_t> tokens) const {
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= vocab_size()) {
      throw Error(Exit::kBadData,
                  fmt::format("token {} is not in the vocabulary of {}", token, vocab_size()));
    }
  }
  return std::visit([&](const auto& kind) { return kind.decode(tokens); }, state_->kind);
}

std::int64_t Tokenizer::vocab_size() const {
  return std::visit([](const auto& kind) { return kind.vocab_size(); }, state_->kind);
}
std::int64_t Tokenizer::eos_id() const {
  return std::visit([](const auto& kind) { return kind.eos_id(); }, state_->kind);
}
std::int64_t Tokenizer::bos_id() const {
  return std::visit([](const auto& kind) { return kind.bos_id(); }, state_->kind);
}
const std::string& Tokenizer::sha256() const { return state_->sha256; }
const std::string& Tokenizer::model() const { return state_->model; }
std::string Tokenizer::file_name() const {
  if (state_->model.empty()) {
    return "";
  }
  return is_json(state_->model) ? "tokenizer.json" : "tokenizer.model";
}

}  // namespace moesaic::text
