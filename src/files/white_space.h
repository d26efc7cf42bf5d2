#pragma once

#include <cstddef>
#include <string_view>

namespace moesaic::files {

/// Bytes of a UTF-8 text without the white space at its end: all that Python's str.isspace calls
/// so, as str.rstrip() takes it away.
std::size_t size_without_space(std::string_view text);

}  // namespace moesaic::files
