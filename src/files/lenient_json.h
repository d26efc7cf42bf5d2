#pragma once

#include <exception>
#include <string>
#include <string_view>

#include "base/json.h"

namespace moesaic::files {

/// Parses JSON as Python's json does, which wrote most of it: NaN and Infinity become null, a
/// surrogate without its other half becomes U+FFFD. kBadData if it is not even that; the message
/// quotes no more than quoted() does.
Json parse_lenient_json(const std::string& text);

/// Why a text is not JSON, in one short line.
std::string json_reason(const std::exception& error, std::string_view text);

/// Some 80 characters around a byte, fit to be shown.
std::string quoted(std::string_view text, std::size_t byte);

}  // namespace moesaic::files
