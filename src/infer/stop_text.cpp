#include "infer/stop_text.h"

#include <algorithm>

namespace moesaic::infer {
namespace {

constexpr const char* kUnknown =
    "\xEF\xBF\xBD";  // U+FFFD, for rows of an embedding without a token

}  // namespace

StopText::StopText(const text::Tokenizer& tokenizer, const std::vector<std::string>& stops,
                   std::span<const std::int32_t> prompt)
    : tokenizer_(&tokenizer),
      stops_(&stops),
      begins_(std::all_of(prompt.begin(), prompt.end(), [&](std::int32_t token) {
        return token < tokenizer.vocab_size() && tokenizer.piece(token).empty();
      })) {}

bool StopText::add(std::int32_t token) {
  const std::size_t before = text_.size();
  const std::string piece = token < tokenizer_->vocab_size() ? tokenizer_->piece(token) : kUnknown;
  text_ += begins_ && piece != kUnknown ? tokenizer_->decode(std::span(&token, 1)) : piece;
  begins_ = begins_ && piece.empty();
  std::size_t end = std::string::npos;
  for (const std::string& stop : *stops_) {
    const std::size_t from = before < stop.size() ? 0 : before - stop.size() + 1;
    end = std::min(end, text_.find(stop, from));
  }
  if (end == std::string::npos) {
    return false;
  }
  text_.resize(end);
  return true;
}

}  // namespace moesaic::infer
