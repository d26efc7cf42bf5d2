#pragma once

#include <filesystem>
#include <string>

namespace moesaic::testing {

/// A fresh folder that is removed with its contents at the end of its scope.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// Writes (or reads) a whole text file.
void write_file(const std::filesystem::path& file, const std::string& text);
std::string read_file(const std::filesystem::path& file);
/// Inverts one bit of the byte at `offset` (from the end if negative).
void flip_bit(const std::filesystem::path& file, std::int64_t offset);

}  // namespace moesaic::testing
