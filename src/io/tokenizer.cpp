#include "io/tokenizer.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/sha256.h"
#include "io/files.h"
#include "io/tokenizer_text.h"

namespace moesaic::io {
namespace {

constexpr std::size_t kPartBytes = 1000;                 // BPE is faster on short parts
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // what a model writes for a space
constexpr std::string_view kProbe = "  a\t \xEF\xAC\x81  b \r\n\n  ";  // spaces, a ligature

std::string sha256_of(std::string_view text) {
  return Sha256::of(std::as_bytes(std::span(text.data(), text.size())));
}

}  // namespace

struct Tokenizer::State {
  std::int64_t vocab_size = 0, eos_id = -1, bos_id = -1;
  std::string sha256, model;
  sentencepiece::SentencePieceProcessor processor;  // unused for bytes
  bool exact = false;  // has bytes and changes nothing: any text survives
  bool dummy_prefix = false;
  std::array<std::int32_t, 256> byte_id{};  // of the byte pieces
  std::array<bool, 256> joins_newline{};    // some piece has this byte right after a '\n'

  void set_model(std::string content, const std::string& name);
  void scan_pieces();
  void encode_part(std::string_view text, std::vector<std::int32_t>& tokens) const;
  void encode_run(std::string_view text, std::vector<std::int32_t>& tokens) const;
  void append_piece(std::int32_t token, std::string& text) const;
  bool joins_newline_at(char next) const {
    return joins_newline[static_cast<unsigned char>(next == ' ' ? kSpaceMark[0] : next)];
  }
};

void Tokenizer::State::set_model(std::string content, const std::string& name) {
  model = std::move(content);
  const auto status = processor.LoadFromSerializedProto(model);
  if (model.empty() || !status.ok()) {
    throw Error(Exit::kBadData, fmt::format("{} is not a SentencePiece model: {}", name,
                                            model.empty() ? "empty" : status.ToString()));
  }
  vocab_size = processor.GetPieceSize();
  eos_id = processor.eos_id();
  bos_id = processor.bos_id();
  sha256 = sha256_of(model);
  scan_pieces();
}

void Tokenizer::State::scan_pieces() {
  std::size_t bytes = 0;
  for (std::int32_t id = 0; id < processor.GetPieceSize(); ++id) {
    const std::string& piece = processor.IdToPiece(id);
    if (processor.IsByte(id)) {
      byte_id[std::stoul(piece.substr(1, 4), nullptr, 16)] = id;
      ++bytes;
      continue;
    }
    for (std::size_t i = 0; i + 1 < piece.size(); ++i) {
      if (piece[i] == '\n') {
        joins_newline[static_cast<unsigned char>(piece[i + 1])] = true;
      }
    }
  }
  std::vector<std::string> pieces;
  const auto status = processor.Encode("a", &pieces);
  require(status.ok(), "SentencePiece cannot encode");
  dummy_prefix = !pieces.empty() && pieces[0].starts_with(kSpaceMark);
  std::vector<std::int32_t> tokens;
  encode_run(kProbe, tokens);
  std::string back;
  for (const std::int32_t token : tokens) {
    append_piece(token, back);
  }
  exact = bytes == 256 && back == kProbe;
}

/// Text without bad bytes. Cut after line ends where no piece can cross the cut, which changes
/// nothing but the time it takes.
void Tokenizer::State::encode_run(std::string_view text, std::vector<std::int32_t>& tokens) const {
  while (!text.empty()) {
    std::size_t end = std::min(kPartBytes, text.size());
    while (end < text.size() && (!exact || text[end - 1] != '\n' || joins_newline_at(text[end]))) {
      ++end;
    }
    std::vector<int> ids;
    const auto status = processor.Encode(absl::string_view(text.data(), end), &ids);
    require(status.ok(), "SentencePiece cannot encode");
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    text.remove_prefix(end);
  }
}

/// What the model would not give back (bad UTF-8, NUL, its own mark for a space) goes as bytes.
void Tokenizer::State::encode_part(std::string_view text, std::vector<std::int32_t>& tokens) const {
  while (!text.empty()) {
    const std::size_t clean = clean_prefix(text, kSpaceMark);
    if (clean > 0) {
      encode_run(text.substr(0, clean), tokens);
      text.remove_prefix(clean);
      continue;
    }
    tokens.push_back(byte_id[static_cast<unsigned char>(text[0])]);
    text.remove_prefix(1);
  }
}

void Tokenizer::State::append_piece(std::int32_t token, std::string& text) const {
  if (processor.IsControl(token)) {
    return;
  }
  const std::string& piece = processor.IdToPiece(token);
  if (processor.IsByte(token)) {
    text += static_cast<char>(std::stoul(piece.substr(1, 4), nullptr, 16));
    return;
  }
  std::size_t begin = 0;
  while (begin < piece.size()) {
    const std::size_t mark = std::min(piece.find(kSpaceMark, begin), piece.size());
    text.append(piece, begin, mark - begin);
    if (mark < piece.size()) {
      text += ' ';
    }
    begin = mark + kSpaceMark.size();
  }
}

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::bytes(bool with_bos) {
  auto state = std::make_unique<State>();
  state->eos_id = 256;
  state->bos_id = with_bos ? 257 : -1;
  state->vocab_size = with_bos ? 258 : 257;
  state->sha256 = sha256_of(with_bos ? "bytes eos bos" : "bytes eos");
  return Tokenizer(std::move(state));
}

Tokenizer Tokenizer::load(const std::filesystem::path& file) {
  return from_model(read_whole(file), std::filesystem::absolute(file).string());
}

Tokenizer Tokenizer::from_model(std::string model, const std::string& name) {
  auto state = std::make_unique<State>();
  state->set_model(std::move(model), name);
  return Tokenizer(std::move(state));
}

Tokenizer Tokenizer::of(const CorpusInfo& corpus) {
  if (!corpus.tokenizer.empty()) {
    Tokenizer tokenizer = load(corpus.tokenizer);
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
    Tokenizer tokenizer = bytes(with_bos);
    if (tokenizer.sha256() == corpus.vocab_sha256) {
      return tokenizer;
    }
  }
  throw Error(Exit::kBadData, fmt::format("corpus '{}' does not say with which tokenizer it was "
                                          "made; make it with `moesaic tokenize`",
                                          corpus.name));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> tokens;
  if (state_->model.empty()) {
    tokens.reserve(text.size() + 2);
    for (const char byte : text) {
      tokens.push_back(static_cast<unsigned char>(byte));
    }
  } else if (state_->exact) {
    state_->encode_part(text, tokens);
  } else {
    state_->encode_run(text, tokens);
  }
  return tokens;
}

std::string Tokenizer::piece(std::int32_t token) const {
  if (token < 0 || token >= state_->vocab_size) {
    throw Error(Exit::kBadData,
                fmt::format("token {} is not in the vocabulary of {}", token, state_->vocab_size));
  }
  std::string text;
  if (!state_->model.empty()) {
    state_->append_piece(token, text);
  } else if (token < 256) {
    text += static_cast<char>(token);
  }
  return text;
}

std::string Tokenizer::decode(std::span<const std::int32_t> tokens) const {
  std::string text;
  for (const std::int32_t token : tokens) {
    text += piece(token);
  }
  if (state_->dummy_prefix && text.starts_with(' ')) {
    text.erase(0, 1);
  }
  return text;
}

std::int64_t Tokenizer::vocab_size() const { return state_->vocab_size; }
std::int64_t Tokenizer::eos_id() const { return state_->eos_id; }
std::int64_t Tokenizer::bos_id() const { return state_->bos_id; }
const std::string& Tokenizer::sha256() const { return state_->sha256; }
const std::string& Tokenizer::model() const { return state_->model; }
std::string Tokenizer::file_name() const { return state_->model.empty() ? "" : "tokenizer.model"; }

}  // namespace moesaic::io
