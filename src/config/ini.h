#pragma once

#include <string>
#include <vector>

namespace moesaic::config {

/// A value as it was given, and where: "FILE:LINE" or "command line".
struct Setting {
  std::string key, value, location;
};

/// The settings of one INI file in their order; what cannot be read is added to problems.
std::vector<Setting> read_ini(const std::string& file, std::vector<std::string>& problems);

}  // namespace moesaic::config
