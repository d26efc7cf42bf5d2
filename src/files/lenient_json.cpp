#include "files/lenient_json.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "base/utf8.h"

namespace moesaic::files {
namespace {

constexpr std::size_t kEscape = 6;  // bytes of \uXXXX

/// The 16 bits of an escape (u and four hexadecimal digits) that text begins with; -1 if it does
/// not.
int unit_of(std::string_view text) {
  if (text.size() < kEscape || !text.starts_with("\\u")) {
    return -1;
  }
  const std::string_view digits = text.substr(2, 4);
  if (digits.find_first_not_of("0123456789abcdefABCDEF") != digits.npos) {
    return -1;
  }
  return std::stoi(std::string(digits), nullptr, 16);
}

bool is_high(int unit) { return unit >= 0xD800 && unit < 0xDC00; }
bool is_low(int unit) { return unit >= 0xDC00 && unit < 0xE000; }

/// Copies an escape that text begins with, with both halves of a character; returns its bytes.
std::size_t copy_escape(std::string_view text, std::string& out) {
  const int unit = unit_of(text);
  std::size_t size = unit < 0 ? std::min<std::size_t>(2, text.size()) : kEscape;
  if (is_high(unit) && is_low(unit_of(text.substr(kEscape)))) {
    size = 2 * kEscape;
  } else if (is_high(unit) || is_low(unit)) {
    out += "\\ufffd";
    return size;
  }
  out += text.substr(0, size);
  return size;
}

/// What Python writes beyond JSON, as JSON.
std::string mended(std::string_view text) {
  std::string out;
  bool inside = false;  // of a string
  for (std::size_t i = 0; i < text.size();) {
    const std::string_view rest = text.substr(i);
    if (inside && rest.front() == '\\') {
      i += copy_escape(rest, out);
      continue;
    }
    inside = rest.front() == '"' ? !inside : inside;
    std::size_t size = 1;
    for (const std::string_view word : {"NaN", "Infinity", "-Infinity"}) {
      size = !inside && rest.starts_with(word) ? word.size() : size;
    }
    out += size > 1 ? "null" : rest.substr(0, 1);
    i += size;
  }
  return out;
}

}  // namespace

std::string quoted(std::string_view text, std::size_t byte) {
  constexpr std::size_t kBefore = 40, kMost = 80;
  const std::size_t begin = byte > kBefore ? std::min(byte - kBefore, text.size()) : 0;
  std::string part = with_replacements(text.substr(begin, kMost));
  std::replace_if(
      part.begin(), part.end(), [](unsigned char c) { return c < ' '; }, ' ');
  return fmt::format("{}'{}'{}", begin > 0 ? "..." : "", part,
                     begin + kMost < text.size() ? "..." : "");
}

std::string json_reason(const std::exception& error, std::string_view text) {
  std::string what = error.what();
  constexpr std::size_t kMost = 300;
  what = what.substr(0, kMost);
  const auto* const json = dynamic_cast<const JsonError*>(&error);
  return json == nullptr || json->byte() == 0
             ? what
             : fmt::format("{}, near {}", what, quoted(text, json->byte()));
}

Json parse_lenient_json(const std::string& text) {
  try {
    return Json::parse(text);
  } catch (const JsonError&) {
  }
  try {
    return Json::parse(mended(text));
  } catch (const JsonError& error) {
    throw Error(Exit::kBadData, json_reason(error, text));
  }
}

}  // namespace moesaic::files
