#include "text/huggingface/added.h"

#include <algorithm>

#include "base/utf8.h"
#include "text/huggingface/unicode.h"

namespace moesaic::text {
namespace {

bool ends_with_word(std::string_view text) {
  std::size_t begin = text.size();
  while (begin > 0 && (static_cast<unsigned char>(text[begin - 1]) & 0xC0U) == 0x80U) {
    --begin;
  }
  return begin > 0 && is_word(first_character(text.substr(begin - 1)));
}

bool starts_with_word(std::string_view text) {
  return !text.empty() && is_word(first_character(text));
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    const std::string& content = tokens_[i].content;
    if (!content.empty()) {
      trie_.add(content, static_cast<std::int32_t>(i));
      begins_[static_cast<unsigned char>(content[0])] = true;
    }
  }
}

bool AddedTokens::next(std::string_view text, std::size_t from, std::size_t done, Hit& hit) const {
  if (tokens_.empty()) {
    return false;
  }
  for (std::size_t at = from; at < text.size(); ++at) {
    if (!begins_[static_cast<unsigned char>(text[at])]) {
      continue;
    }
    std::size_t length = 0;
    std::int32_t index = -1;
    trie_.prefixes(text.substr(at), [&](std::size_t size, std::int32_t value) {
      length = size;
      index = value;
    });
    if (index < 0) {
      continue;
    }
    const AddedToken& token = tokens_[static_cast<std::size_t>(index)];
    hit = {&token, at, at + length, at + length};
    if (token.single_word &&
        (ends_with_word(text.substr(0, at)) || starts_with_word(text.substr(hit.end)))) {
      hit.token = nullptr;
      return true;
    }
    if (token.lstrip) {
      hit.begin = std::max(at - trailing_space(text.substr(0, at)), done);
    }
    if (token.rstrip) {
      hit.end += leading_space(text.substr(hit.end));
    }
    return true;
  }
  return false;
}

}  // namespace moesaic::text
