#include "io/strict_json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "base/error.h"
#include "io/lenient_json.h"

namespace moesaic::io {

using nlohmann::json;

json parse_strict_json(const std::string& text, int most_depth, const std::string& what) {
  std::vector<std::set<std::string>> keys;  // of each object that is open
  const auto check = [&](int depth, json::parse_event_t event, json& value) {
    const bool object = event == json::parse_event_t::object_start;
    if ((object || event == json::parse_event_t::array_start) && depth >= most_depth) {
      throw Error(Exit::kBadData, what + " is nested too deeply");
    }
    if (object) {
      keys.emplace_back();
    } else if (event == json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == json::parse_event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      if (!keys.back().insert(key).second) {
        throw Error(Exit::kBadData, fmt::format("{} has '{}' twice", what, key));
      }
    }
    return true;
  };
  try {
    return json::parse(text, check);
  } catch (const json::exception& error) {
    throw Error(Exit::kBadData, fmt::format("{} is not JSON ({})", what, json_reason(error, text)));
  }
}

}  // namespace moesaic::io
