#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace moesaic {

/// Bytes of the well-formed UTF-8 sequence (no surrogates, no overlong forms) that text begins
/// with; 0 if it does not begin with one.
std::size_t utf8_length(std::string_view text);

/// Length of the longest prefix that is valid UTF-8 without NUL and without `mark`.
std::size_t clean_prefix(std::string_view text, std::string_view mark);

/// Length of the longest prefix that is valid UTF-8.
std::size_t valid_prefix(std::string_view text);

/// The text with U+FFFD for each sequence that is not UTF-8, as decoders commonly put it: one for
/// each maximal beginning of a character (The Unicode Standard, section 3.9).
std::string with_replacements(std::string_view text);

/// The character that a valid text begins with.
char32_t first_character(std::string_view text);
void append_utf8(char32_t character, std::string& text);

}  // namespace moesaic
