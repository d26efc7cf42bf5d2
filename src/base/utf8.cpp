#include "base/utf8.h"

namespace moesaic {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// Bytes of the longest beginning of a character at the start of a text that is none; at least 1.
std::size_t broken_length(std::string_view text) {
  for (const std::size_t length : {std::size_t{3}, std::size_t{2}}) {
    for (const std::string_view rest : {"\x80", "\x90", "\x80\x80", "\x90\x80"}) {
      if (length <= text.size() && utf8_length(std::string(text.substr(0, length)) +
                                               std::string(rest)) == length + rest.size()) {
        return length;
      }
    }
  }
  return 1;
}

}  // namespace

std::size_t utf8_length(std::string_view text) {
  if (text.empty()) {
    return 0;
  }
  const auto byte = [&](std::size_t i) -> unsigned {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const auto continues = [&](std::size_t i) { return (byte(i) & 0xC0U) == 0x80U; };
  const unsigned first = byte(0);
  if (first < 0x80U) {
    return 1;
  }
  if (first >= 0xC2U && first <= 0xDFU) {
    return continues(1) ? 2 : 0;
  }
  if (first >= 0xE0U && first <= 0xEFU) {
    const bool overlong = first == 0xE0U && byte(1) < 0xA0U;
    const bool surrogate = first == 0xEDU && byte(1) > 0x9FU;
    return continues(1) && continues(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (first >= 0xF0U && first <= 0xF4U) {
    const bool overlong = first == 0xF0U && byte(1) < 0x90U;
    const bool too_large = first == 0xF4U && byte(1) > 0x8FU;
    return continues(1) && continues(2) && continues(3) && !overlong && !too_large ? 4 : 0;
  }
  return 0;
}

std::size_t clean_prefix(std::string_view text, std::string_view mark) {
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t length = utf8_length(text.substr(at));
    if (length == 0 || text[at] == '\0' || text.substr(at, mark.size()) == mark) {
      break;
    }
    at += length;
  }
  return at;
}

std::size_t valid_prefix(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t length = utf8_length(text.substr(at));
    if (length == 0) {
      break;
    }
    at += length;
  }
  return at;
}

std::string with_replacements(std::string_view text) {
  std::string valid;
  while (!text.empty()) {
    const std::size_t good = valid_prefix(text);
    valid.append(text.substr(0, good));
    text.remove_prefix(good);
    if (!text.empty()) {
      valid.append(kReplacement);
      text.remove_prefix(broken_length(text));
    }
  }
  return valid;
}

char32_t first_character(std::string_view text) {
  const std::size_t length = utf8_length(text);
  const auto byte = [&](std::size_t i) -> unsigned { return static_cast<unsigned char>(text[i]); };
  if (length <= 1) {
    return text.empty() ? U'\0' : static_cast<char32_t>(byte(0));
  }
  unsigned character = byte(0) & (0x7FU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    character = (character << 6U) | (byte(i) & 0x3FU);
  }
  return static_cast<char32_t>(character);
}

void append_utf8(char32_t character, std::string& text) {
  const auto put = [&](unsigned byte) { text += static_cast<char>(byte); };
  const auto code = static_cast<unsigned>(character);
  if (code < 0x80U) {
    put(code);
    return;
  }
  if (code < 0x800U) {
    put(0xC0U | (code >> 6U));
  } else {
    if (code < 0x10000U) {
      put(0xE0U | (code >> 12U));
    } else {
      put(0xF0U | (code >> 18U));
      put(0x80U | ((code >> 12U) & 0x3FU));
    }
    put(0x80U | ((code >> 6U) & 0x3FU));
  }
  put(0x80U | (code & 0x3FU));
}

}  // namespace moesaic
