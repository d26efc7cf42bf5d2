#include "files/white_space.h"

#include "base/utf8.h"

namespace moesaic::files {
namespace {

bool is_python_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

}  // namespace

std::size_t size_without_space(std::string_view text) {
  std::size_t size = text.size();
  while (size > 0) {
    std::size_t begin = size - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0U) == 0x80U) {
      --begin;
    }
    const std::string_view last = text.substr(begin, size - begin);
    if (utf8_length(last) != last.size() || !is_python_space(first_character(last))) {
      return size;
    }
    size = begin;
  }
  return size;
}

}  // namespace moesaic::files
