#include "text/token_bytes.h"

#include <array>

#include "base/utf8.h"

namespace moesaic::text {
namespace {

constexpr unsigned kOwnLetters = 256;  // first letter of bytes without one

bool is_its_letter(unsigned byte) {
  return (byte >= 0x21U && byte <= 0x7EU) || (byte >= 0xA1U && byte <= 0xACU) || byte >= 0xAEU;
}

// Bytes that are no visible letter of Latin-1, in order: letter 256 + i stands for the i-th.
std::array<unsigned char, 68> hidden_bytes() {
  std::array<unsigned char, 68> bytes{};
  std::size_t count = 0;
  for (unsigned byte = 0; byte < 256; ++byte) {
    if (!is_its_letter(byte)) {
      bytes[count++] = static_cast<unsigned char>(byte);
    }
  }
  return bytes;
}

}  // namespace

std::optional<std::string> bytes_of_letters(std::string_view token) {
  static const auto hidden = hidden_bytes();
  std::string bytes;
  while (!token.empty()) {
    if (utf8_length(token) == 0) {
      return std::nullopt;
    }
    const auto letter = static_cast<unsigned>(first_character(token));
    if (letter < kOwnLetters && is_its_letter(letter)) {
      bytes += static_cast<char>(letter);
    } else if (letter >= kOwnLetters && letter < kOwnLetters + hidden.size()) {
      bytes += static_cast<char>(hidden[letter - kOwnLetters]);
    } else {
      return std::nullopt;
    }
    token.remove_prefix(utf8_length(token));
  }
  return bytes;
}

std::optional<unsigned char> byte_of_token(std::string_view token) {
  const auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  };
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') {
    return std::nullopt;
  }
  const int high = digit(token[3]);
  const int low = digit(token[4]);
  if (high < 0 || low < 0) {
    return std::nullopt;
  }
  return static_cast<unsigned char>(high * 16 + low);
}

}  // namespace moesaic::text
