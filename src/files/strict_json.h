#pragma once

#include <string>

#include "base/json.h"

namespace moesaic::files {

/// Parses JSON that others wrote. kBadData if it is not JSON, has a key twice in one object (the
/// parser alone would take the last), or is nested more than `most_depth` deep. `what` begins the
/// message: "its header".
Json parse_strict_json(const std::string& text, int most_depth, const std::string& what);

}  // namespace moesaic::files
