#include "files/disk_space.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <map>

#include "base/io_error.h"
#include "base/text.h"

namespace moesaic::files {
namespace {

namespace fs = std::filesystem;

fs::path folder_of(const fs::path& place) {
  const fs::path whole = fs::absolute(place);
  return fs::is_directory(whole) ? whole : whole.parent_path();
}

std::string in_bytes(double bytes) {
  return fmt::format("{:.0f} bytes ({})", bytes, short_bytes(bytes));
}

}  // namespace

double bytes_below(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    const std::uintmax_t size = fs::file_size(path, error);
    return error ? 0.0 : static_cast<double>(size);
  }
  double sum = 0.0;
  for (const auto& entry : fs::recursive_directory_iterator(path, error)) {
    const std::uintmax_t size = entry.is_regular_file(error) ? entry.file_size(error) : 0;
    sum += error ? 0.0 : static_cast<double>(size);
  }
  return sum;
}

void check_room(const fs::path& file, const std::string& what, std::uint64_t bytes) {
  constexpr std::uint64_t kNewChunks = std::uint64_t{4} << 20U;
  std::error_code error;
  const std::uint64_t free = fs::space(file, error).available;
  if (!error && free < bytes + kNewChunks) {
    throw WriteError(
        ENOSPC,
        fmt::format("{}: {} needs {}, {} are free: free some, then run it again", file.string(),
                    what, short_bytes(static_cast<double>(bytes + kNewChunks)),
                    short_bytes(static_cast<double>(free))));
  }
}

void check_space(const std::vector<SpaceNeed>& needs, const std::string& remedy) {
  struct Total {
    fs::path folder;
    double bytes = 0.0;
    std::vector<std::string> parts;
  };
  std::map<dev_t, Total> totals;  // by filesystem
  for (const SpaceNeed& need : needs) {
    const fs::path folder = folder_of(need.place);
    struct stat status {};
    if (::stat(folder.c_str(), &status) == 0) {
      Total& total = totals[status.st_dev];
      total.folder = total.parts.empty() ? folder : total.folder;
      total.bytes += need.bytes;
      total.parts.push_back(fmt::format("{} {}", need.what, in_bytes(need.bytes)));
    }
  }
  for (const auto& [device, total] : totals) {
    std::error_code error;
    const auto free = static_cast<double>(fs::space(total.folder, error).available);
    if (!error && total.bytes > free) {
      throw Error(Exit::kCannotCreate,
                  fmt::format("{}: the outputs need {}, {} are free: {}. Of these, {}",
                              total.folder.string(), in_bytes(total.bytes), in_bytes(free), remedy,
                              join(total.parts, "; ")));
    }
  }
}

}  // namespace moesaic::files
