#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace moesaic::record {

/// The parts of an output, NAME-00012-of-00256.h5 in one folder. A part is complete or absent, and
/// is used again only with the same fingerprint.
class PartFiles {
 public:
  /// The fingerprint in a file; nothing if it is no sound one of its kind.
  using FingerprintOf = std::function<std::optional<std::string>(const std::filesystem::path&)>;

  PartFiles(std::filesystem::path folder, std::string name, std::int64_t count,
            std::string fingerprint, FingerprintOf fingerprint_of);

  const std::filesystem::path& folder() const { return folder_; }
  std::int64_t count() const { return count_; }
  std::filesystem::path part(std::int64_t i) const;
  /// A flag for each part: it is there.
  std::vector<std::uint8_t> done() const;

  /// Whether the file is there and of this fingerprint.
  bool is_current(const std::filesystem::path& file) const;
  /// Renames the file, with a notice, if it is there and has another fingerprint.
  void drop_stale(const std::filesystem::path& file) const;
  /// Renames, with a notice, the part files of a run with another number of parts.
  void drop_other_counts() const;
  /// Makes the folder. Throws kCannotCreate, also if it is not writable.
  void make_folder() const;
  /// Removes the parts, what is named like them, and the lock, once they are not needed; the
  /// folder, too, unless something was set aside there. What cannot be removed stays, with a
  /// warning.
  void remove() const;

 private:
  std::filesystem::path folder_;
  std::string name_;
  std::int64_t count_;
  std::string fingerprint_;
  FingerprintOf fingerprint_of_;
};

}  // namespace moesaic::record
