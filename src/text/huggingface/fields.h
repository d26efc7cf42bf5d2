#pragma once

#include <fmt/format.h>

#include <functional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/json.h"

namespace moesaic::text {

/// An object of a tokenizer.json, and where it stands: for messages such as
/// "FILE: pre_tokenizer: ...".
struct JsonPart {
  const Json& value;
  const std::string& file;
  std::string_view section;

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(Exit::kBadData, fmt::format("{}: {}: {}", file, section, what));
  }
  JsonPart at(const Json& part) const { return {part, file, section}; }
  bool has(const char* key) const {
    return value.is_object() && value.contains(key) && !value[key].is_null();
  }
  const Json& member(const char* key) const {
    if (!has(key)) {
      fail(fmt::format("'{}' is missing", key));
    }
    return value[key];
  }
  std::string text(const char* key) const {
    const Json& found = member(key);
    if (!found.is_string()) {
      fail(fmt::format("'{}' is no string", key));
    }
    return found.get<std::string>();
  }
  std::string text_or(const char* key, const std::string& otherwise) const {
    return has(key) ? text(key) : otherwise;
  }
  bool flag(const char* key, bool otherwise) const {
    if (has(key) && !value[key].is_boolean()) {
      fail(fmt::format("'{}' is neither true nor false", key));
    }
    return has(key) ? value[key].get<bool>() : otherwise;
  }
  /// An integer in [least, most].
  std::int64_t number(const char* key, std::int64_t least, std::int64_t most) const {
    const Json& found = member(key);
    if (!found.is_integer_in(least, most)) {
      fail(fmt::format("'{}' is no integer from {} to {}", key, least, most));
    }
    return found.get<std::int64_t>();
  }
};

}  // namespace moesaic::text
