#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace moesaic::io {

/// Bytes of a file, or of all files below a folder; 0 if there is none.
double bytes_below(const std::filesystem::path& path);

/// What an output will take where it lies.
struct SpaceNeed {
  std::string what;  // "a trace of 100 rows"
  std::filesystem::path place;
  double bytes = 0.0;
};

/// Throws kCannotCreate with the bytes needed and free if the needs of a filesystem exceed what is
/// free there. The folders of the places exist. remedy: what the user can do.
void check_space(const std::vector<SpaceNeed>& needs, const std::string& remedy);

}  // namespace moesaic::io
