#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "files/hdf5/file.h"

// Files of columns, as scores, continuations, traces and routing records are: arrays that grow with
// each row, with units and a name for people. On the HDF5 thread.
namespace moesaic::files {

/// Attributes of an array, as the CF conventions call them.
void describe(Hdf5File& file, const std::string& dataset, const std::string& units,
              const std::string& long_name);

/// An empty array that grows by chunks of so many elements, each with a checksum.
template <class T>
void create_column(Hdf5File& file, const std::string& dataset, std::int64_t chunk,
                   const std::string& units, const std::string& long_name) {
  file.create_dataset<T>(dataset, {0}, {.chunk = {chunk}, .unlimited = true, .checksum = true});
  describe(file, dataset, units, long_name);
}
/// The same of texts of at most `width` bytes.
void create_text_column(Hdf5File& file, const std::string& dataset, std::int64_t chunk,
                        std::int64_t width);

/// Writes values behind those that are there.
template <class T>
void append(Hdf5File& file, const std::string& dataset, const std::vector<T>& values) {
  const std::int64_t at = file.extents(dataset).front(), count = std::ssize(values);
  if (count > 0) {
    file.extend(dataset, {at + count});
    file.write<T>(dataset, {at}, {count}, values);
  }
}
void append(Hdf5File& file, const std::string& dataset, const std::vector<std::string>& values);

/// Throws kMismatch unless an axis of a file that is to be continued is the run's.
void check_axis(const Hdf5File& file, std::string_view axis, const std::string& was,
                const std::string& is);

/// A file that is written under a temporary name. It is removed unless it was published.
class NewHdf5File {
 public:
  explicit NewHdf5File(const std::filesystem::path& path);
  ~NewHdf5File();
  NewHdf5File(const NewHdf5File&) = delete;
  NewHdf5File& operator=(const NewHdf5File&) = delete;

  Hdf5File& operator*() { return file_; }
  Hdf5File* operator->() { return &file_; }
  /// Makes it durable and visible, under its own name or another one of that folder.
  void publish() { publish_as(path_); }
  void publish_as(const std::filesystem::path& path);

 private:
  std::filesystem::path path_, temporary_;
  Hdf5File file_;
  bool published_ = false;
};

/// A file that fill() makes, in place of one that is there, which is set aside with the notice
/// "OLDER is now PATH". Not on the HDF5 thread.
void begin_file(const std::filesystem::path& path, std::string_view older,
                const std::function<void(Hdf5File&)>& fill);

}  // namespace moesaic::files
