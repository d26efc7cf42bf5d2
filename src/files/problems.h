#pragma once

#include <optional>
#include <string>
#include <vector>

#include "files/format_version.h"

namespace moesaic::files {

/// What is wrong with a file, one line each; empty: it is sound.
using Problems = std::vector<std::string>;

/// Runs one check. An Error becomes a line, but where the storage failed nothing is known of the
/// file, and the Error goes on.
template <class Check>
void note(Problems& problems, Check&& check) {
  try {
    check();
  } catch (const Error& error) {
    if (error.code() == Exit::kIoError) {
      throw;
    }
    problems.emplace_back(error.what());
  }
}

/// Reads what a file says of itself; nothing if it says it badly.
template <class Read>
auto unless_damaged(Read&& read) -> decltype(read()) {
  try {
    return read();
  } catch (const Error& error) {
    if (!is_damage(error)) {
      throw;
    }
    return std::nullopt;
  }
}

}  // namespace moesaic::files
