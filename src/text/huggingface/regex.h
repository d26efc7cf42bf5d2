#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace moesaic::text {

/// Bytes [begin, end) of a text.
struct Span {
  std::size_t begin = 0, end = 0;
  std::size_t size() const { return end - begin; }
};

/// An Oniguruma pattern as PCRE2 writes it, with the same meaning. Throws kBadData naming `name`
/// for what cannot be said, or is not known to be the same.
std::string pcre2_pattern(std::string_view pattern, const std::string& name);

/// A regular expression, or a plain string, to search valid UTF-8 for. Searches take no stack that
/// grows with the text, and a bounded number of steps. Const members may be called by many threads.
class Regex {
 public:
  /// Throws kBadData naming `name` if the pattern (of Oniguruma's syntax) is wrong.
  static Regex pattern(std::string_view pattern, const std::string& name);
  static Regex literal(std::string text);

  /// found(span, is_match) for each match and each stretch between matches, in order: together they
  /// are the text. A match may be empty; a stretch is not.
  template <class Found>
  void each(std::string_view text, Found&& found) const;

 private:
  struct Code;
  bool find(std::string_view text, std::size_t from, Span& match) const;
  std::shared_ptr<const Code> code_;  // none: literal_
  std::string literal_;
};

template <class Found>
void Regex::each(std::string_view text, Found&& found) const {
  std::size_t done = 0;  // end of what was told
  std::size_t from = 0;
  bool matched = false;  // a match ended at `done`
  Span match;
  while (from <= text.size() && find(text, from, match)) {
    if (match.size() == 0 && matched && match.begin == done) {
      do {  // no second match at one place: on from the next character
        ++from;
      } while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0U) == 0x80U);
      continue;
    }
    if (done < match.begin) {
      found(Span{done, match.begin}, false);
    }
    found(match, true);
    done = from = match.end;
    matched = true;
  }
  if (done < text.size()) {
    found(Span{done, text.size()}, false);
  }
}

}  // namespace moesaic::text
