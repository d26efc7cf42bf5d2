#include "text/huggingface/token_lengths.h"

#include <algorithm>

#include "base/utf8.h"

namespace moesaic::text {
namespace {

std::size_t characters(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
  }));
}

bool is_byte(std::string_view text) {
  return text.size() == 6 && text.starts_with("<0x") && text.ends_with('>');
}

}  // namespace

std::vector<std::size_t> token_ends(std::string_view word, std::span<const std::int32_t> tokens,
                                    const std::vector<std::string>& texts, bool byte_level) {
  std::vector<std::size_t> ends;
  const auto text_of = [&](std::size_t i) {
    return std::string_view(texts[static_cast<std::size_t>(tokens[i])]);
  };
  std::size_t at = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::string_view text = text_of(i);
    const std::string_view rest = word.substr(at);
    if (byte_level) {
      at += characters(text);
    } else if (rest.starts_with(text)) {
      at += text.size();
    } else if (is_byte(text)) {
      ++at;
    } else if (const std::size_t next = i + 1 < tokens.size() ? rest.find(text_of(i + 1)) : 0;
               next != rest.npos && next > 0) {
      at += next;
    } else {
      at += i + 1 < tokens.size() ? std::max<std::size_t>(1, utf8_length(rest)) : rest.size();
    }
    at = std::min(at, word.size());
    ends.push_back(at);
  }
  return ends;
}

}  // namespace moesaic::text
