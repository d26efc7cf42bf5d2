#pragma once

#include <string>
#include <string_view>

namespace moesaic::text {

// What tokenizers ask about characters. Every text is valid UTF-8.

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

std::string normal_form(std::string_view text, NormalForm form);
/// Whether normal_form(text, kNfc) is surely the text itself: no character from U+0300 on.
bool is_plain(std::string_view text);
std::string lowercase(std::string_view text);
/// Without combining marks.
std::string without_marks(std::string_view text);

/// The property White_Space.
bool is_space(char32_t character);
/// Letters, marks, decimal digits, connectors and joiners.
bool is_word(char32_t character);

/// Bytes of white space at the start and at the end of a text.
std::size_t leading_space(std::string_view text);
std::size_t trailing_space(std::string_view text);

}  // namespace moesaic::text
