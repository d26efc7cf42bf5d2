#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace moesaic::files {

/// Bytes of a file, or of all files below a folder; 0 if there is none.
double bytes_below(const std::filesystem::path& path);

/// What an output will take where it lies.
struct SpaceNeed {
  std::string what;  // "a trace of 100 rows"
  std::filesystem::path place;
  double bytes = 0.0;
};

/// Throws kIoError unless so many bytes, and some more, are free where a file grows: HDF5 is left
/// with a broken file if the disk fills up below it.
void check_room(const std::filesystem::path& file, const std::string& what, std::uint64_t bytes);

/// Throws kCannotCreate with the bytes needed and free if the needs of a filesystem exceed what is
/// free there. The folders of the places exist. remedy: what the user can do.
void check_space(const std::vector<SpaceNeed>& needs, const std::string& remedy);

}  // namespace moesaic::files
