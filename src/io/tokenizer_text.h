#pragma once

#include <cstddef>
#include <string_view>

namespace moesaic::io {

/// Bytes of the well-formed UTF-8 sequence (no surrogates, no overlong forms) that text begins
/// with; 0 if it does not begin with one.
std::size_t utf8_length(std::string_view text);

/// Length of the longest prefix that is valid UTF-8 without NUL and without `mark`.
std::size_t clean_prefix(std::string_view text, std::string_view mark);

}  // namespace moesaic::io
