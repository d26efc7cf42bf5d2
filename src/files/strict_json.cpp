#include "files/strict_json.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/json.h"
#include "files/lenient_json.h"

namespace moesaic::files {

Json parse_strict_json(const std::string& text, int most_depth, const std::string& what) {
  try {
    return Json::parse(text, {.most_depth = most_depth, .unique_keys = true});
  } catch (const JsonError& error) {
    const std::string reason = json_reason(error, text);
    throw Error(Exit::kBadData, error.byte() == 0
                                    ? fmt::format("{}: {}", what, reason)
                                    : fmt::format("{} is not JSON ({})", what, reason));
  }
}

}  // namespace moesaic::files
