#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace moesaic::io {

/// Inside a catch: an Error of what is verified becomes a line. One of reading (kIoError) says
/// nothing about the file, and goes on to the caller.
inline void add_problem(std::vector<std::string>& problems, const Error& error) {
  if (error.code() == Exit::kIoError) {
    throw;
  }
  problems.emplace_back(error.what());
}

}  // namespace moesaic::io
