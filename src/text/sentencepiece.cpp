#include "text/sentencepiece.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <algorithm>

#include "base/error.h"
#include "base/utf8.h"

namespace moesaic::text {
namespace {

constexpr std::size_t kPartBytes = 1000;                 // BPE is faster on short parts
constexpr std::size_t kLongLine = 65536;                 // and needs 240 bytes of memory a byte
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // what a model writes for a space
constexpr std::string_view kProbe = "  a\t \xEF\xAC\x81  b \r\n\n  ";  // spaces, a ligature

}  // namespace

/// Takes tokens, and where they lie if that is asked for.
struct SentencePieceTokenizer::Sink {
  std::vector<std::int32_t>& tokens;
  std::vector<TextRange>* places = nullptr;
  const char* begin = nullptr;  // of the text

  void add_byte(std::int32_t token, const char* at) {
    tokens.push_back(token);
    if (places != nullptr) {
      places->push_back({at - begin, at - begin + 1});
    }
  }
  void add(const sentencepiece::SentencePieceProcessor& processor, std::string_view text) {
    if (places == nullptr) {
      std::vector<int> ids;
      const auto status = processor.Encode(absl::string_view(text.data(), text.size()), &ids);
      require(status.ok(), "SentencePiece cannot encode");
      tokens.insert(tokens.end(), ids.begin(), ids.end());
      return;
    }
    const auto encoded =
        processor.EncodeAsImmutableProto(absl::string_view(text.data(), text.size()));
    for (const auto& piece : encoded.pieces()) {
      tokens.push_back(static_cast<std::int32_t>(piece.id()));
      const std::int64_t first = text.data() - begin;
      places->push_back({first + piece.begin(), first + piece.end()});
    }
  }
};

SentencePieceTokenizer::SentencePieceTokenizer(SentencePieceTokenizer&&) noexcept = default;
SentencePieceTokenizer& SentencePieceTokenizer::operator=(SentencePieceTokenizer&&) noexcept =
    default;
SentencePieceTokenizer::~SentencePieceTokenizer() = default;

SentencePieceTokenizer::SentencePieceTokenizer(const std::string& model, const std::string& name)
    : processor_(std::make_unique<sentencepiece::SentencePieceProcessor>()) {
  const auto status = processor_->LoadFromSerializedProto(model);
  if (model.empty() || !status.ok()) {
    throw Error(Exit::kBadData, fmt::format("{} is not a SentencePiece model: {}", name,
                                            model.empty() ? "empty" : status.ToString()));
  }
  scan_pieces();
}

void SentencePieceTokenizer::scan_pieces() {
  std::size_t bytes = 0;
  for (std::int32_t id = 0; id < processor_->GetPieceSize(); ++id) {
    const std::string& piece = processor_->IdToPiece(id);
    if (processor_->IsByte(id)) {
      byte_id_[std::stoul(piece.substr(1, 4), nullptr, 16)] = id;
      ++bytes;
      continue;
    }
    learn_joints(piece);
  }
  std::vector<std::string> pieces;
  const auto status = processor_->Encode("a", &pieces);
  require(status.ok(), "SentencePiece cannot encode");
  dummy_prefix_ = !pieces.empty() && pieces[0].starts_with(kSpaceMark);
  std::vector<std::int32_t> tokens;
  Sink sink{tokens};
  encode_run(kProbe, sink);
  std::string back;
  for (const std::int32_t token : tokens) {
    append_piece(token, back);
  }
  exact_ = bytes == 256 && back == kProbe;
}

void SentencePieceTokenizer::learn_joints(const std::string& piece) {
  for (std::size_t i = 0; i + 1 < piece.size(); ++i) {
    if (piece[i] == '\n') {
      joins_newline_[static_cast<unsigned char>(piece[i + 1])] = true;
    }
  }
  if (piece.empty() || valid_prefix(piece) < piece.size()) {
    return;
  }
  std::string_view rest = piece;
  for (char32_t last = first_character(rest);;) {
    rest.remove_prefix(utf8_length(rest));
    if (rest.empty()) {
      return;
    }
    const char32_t next = first_character(rest);
    joints_[std::uint64_t{last} << 32U | next] = 1;
    last = next;
  }
}

/// Whether `at` lies between two characters that no piece has side by side.
bool SentencePieceTokenizer::may_cut_at(std::string_view text, std::size_t at) const {
  const auto continues = [&](std::size_t i) {
    return (static_cast<unsigned char>(text[i]) & 0xC0U) == 0x80U;
  };
  if (continues(at)) {
    return false;
  }
  std::size_t begin = at - 1;
  while (begin > 0 && continues(begin)) {
    --begin;
  }
  const auto character = [](std::string_view rest) {
    return first_character(rest.front() == ' ' ? kSpaceMark : rest);
  };
  const char32_t last = character(text.substr(begin));
  return joints_.find(std::uint64_t{last} << 32U | character(text.substr(at))) == nullptr;
}

/// Text without bad bytes. Cut where no piece can cross the cut, which changes nothing but the time
/// and memory it takes: after line ends, and within a line that is long.
void SentencePieceTokenizer::encode_run(std::string_view text, Sink& sink) const {
  while (!text.empty()) {
    std::size_t end = std::min(kPartBytes, text.size());
    const auto may_cut = [&] {
      return (text[end - 1] == '\n' && !joins_newline_at(text[end])) ||
             (end >= kLongLine && may_cut_at(text, end));
    };
    while (end < text.size() && (!exact_ || !may_cut())) {
      ++end;
    }
    sink.add(*processor_, text.substr(0, end));
    text.remove_prefix(end);
  }
}

/// What the model would not give back (bad UTF-8, NUL, its own mark for a space) goes as bytes.
void SentencePieceTokenizer::encode_into(std::string_view text, Sink& sink) const {
  if (!exact_) {
    encode_run(text, sink);
    return;
  }
  while (!text.empty()) {
    const std::size_t clean = clean_prefix(text, kSpaceMark);
    if (clean > 0) {
      encode_run(text.substr(0, clean), sink);
      text.remove_prefix(clean);
      continue;
    }
    sink.add_byte(byte_id_[static_cast<unsigned char>(text[0])], text.data());
    text.remove_prefix(1);
  }
}

void SentencePieceTokenizer::append_piece(std::int32_t token, std::string& text) const {
  if (processor_->IsControl(token)) {
    return;
  }
  const std::string& piece = processor_->IdToPiece(token);
  if (processor_->IsByte(token)) {
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

void SentencePieceTokenizer::encode(std::string_view text,
                                    std::vector<std::int32_t>& tokens) const {
  Sink sink{tokens};
  encode_into(text, sink);
}

void SentencePieceTokenizer::encode_places(std::string_view text, std::vector<std::int32_t>& tokens,
                                           std::vector<TextRange>& places) const {
  Sink sink{tokens, &places, text.data()};
  encode_into(text, sink);
  for (std::size_t i = places.size(); i-- > 1;) {  // of the bytes of a character, the last has it
    if (places[i - 1].begin == places[i - 1].end) {
      places[i - 1].end = places[i].end;
    }
  }
}

std::string SentencePieceTokenizer::decode(std::span<const std::int32_t> tokens) const {
  std::string text;
  for (const std::int32_t token : tokens) {
    append_piece(token, text);
  }
  if (dummy_prefix_ && text.starts_with(' ')) {
    text.erase(0, 1);
  }
  return text;
}

std::int64_t SentencePieceTokenizer::vocab_size() const { return processor_->GetPieceSize(); }
std::int64_t SentencePieceTokenizer::eos_id() const { return processor_->eos_id(); }
std::int64_t SentencePieceTokenizer::bos_id() const { return processor_->bos_id(); }

bool SentencePieceTokenizer::joins_newline_at(char next) const {
  return joins_newline_[static_cast<unsigned char>(next == ' ' ? kSpaceMark[0] : next)];
}

}  // namespace moesaic::text
