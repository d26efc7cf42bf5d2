#pragma once

#include <map>
#include <string>
#include <vector>

#include "config/config.h"

namespace moesaic::config {

struct Parsed {
  std::string job;
  std::vector<std::string> arguments;  // positional ones after the job
  config::Config config;
  bool help = false, version = false;
  std::map<std::string, std::string> locations;  // key -> where it was set last
};

/// Command line > last --config file > earlier file > default; a later source replaces a list.
/// Throws one Error(kUsage) with a line for every problem.
Parsed parse(int argc, const char* const* argv);

/// The configuration of the job on so many ranks, with derived defaults filled in. Throws one
/// Error(kUsage) with every impossible value and where it was set.
Config checked(const Parsed& parsed, int ranks);

}  // namespace moesaic::config
