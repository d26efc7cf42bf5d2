#include "infer/stop_text.h"

#include <algorithm>

namespace moesaic::infer {
namespace {

constexpr const char* kUnknown =
    "\xEF\xBF\xBD";  // U+FFFD, for rows of an embedding without a token

}  // namespace

StopText::StopText(const io::Tokenizer& tokenizer, const std::vector<std::string>& stops,
                   std::span<const std::int32_t> prompt)
    : tokenizer_(&tokenizer), stops_(&stops), begins_(tokenizer.decode(prompt).empty()) {}

bool StopText::add(std::int32_t token) {
  const std::size_t before = text_.size();
  if (token >= tokenizer_->vocab_size()) {
    text_ += kUnknown;
  } else {
    text_ += begins_ ? tokenizer_->decode(std::span(&token, 1)) : tokenizer_->piece(token);
  }
  begins_ = begins_ && text_.empty();
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
