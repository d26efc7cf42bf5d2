#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

// A small RAII face of HDF5's C interface, through the serial driver. Every function must run on
// the HDF5 thread (see thread.h). T: the fixed-width integers, float and double, stored
// little-endian. What was never written of a chunked dataset reads as 0, or as NaN. Failures are
// Errors that name the file and the object: kNoInput (missing, not ours to read), kBadData (not
// HDF5, truncated, checksum, wrong type or shape), kIoError (the storage failed), WriteError.
// HDF5's own error stack is never printed.
namespace moesaic::files {

using Extents = std::vector<std::int64_t>;

constexpr double kReaderPatience = 10.0;  // seconds that a reader may keep a writer waiting

class Hdf5File {
 public:
  static Hdf5File open(const std::filesystem::path& file);           // read only
  static Hdf5File open_to_write(const std::filesystem::path& file);  // exists already
  /// Opens to write; nothing if another process holds the file's lock.
  static std::optional<Hdf5File> open_unless_locked(const std::filesystem::path& file);
  /// Opens to write, after kReaderPatience in spite of the lock: a writer changes only what a
  /// reader has not read yet.
  static Hdf5File open_patiently(const std::filesystem::path& file);
  static Hdf5File create(const std::filesystem::path& file);  // replaces
  Hdf5File(Hdf5File&&) noexcept;
  Hdf5File& operator=(Hdf5File&&) noexcept;
  ~Hdf5File();
  /// Closes and reports what could not be written (a destructor cannot).
  void close();

  const std::filesystem::path& path() const { return path_; }

  bool has(const std::string& object) const;
  std::vector<std::string> members(const std::string& group) const;
  Extents extents(const std::string& dataset) const;
  /// "u2", "i8", "f4", "string", ... of a dataset.
  std::string type_of(const std::string& dataset) const;

  // Attributes of an object ("/" is the root).
  bool has_attribute(const std::string& object, const std::string& name) const;
  std::string string_attribute(const std::string& object, const std::string& name) const;
  std::int64_t int_attribute(const std::string& object, const std::string& name) const;
  std::vector<std::int64_t> ints_attribute(const std::string& object,
                                           const std::string& name) const;
  double double_attribute(const std::string& object, const std::string& name) const;
  std::vector<std::string> strings_attribute(const std::string& object,
                                             const std::string& name) const;
  // They replace an attribute that exists.
  void set_attribute(const std::string& object, const std::string& name, const std::string& value);
  void set_attribute(const std::string& object, const std::string& name, std::int64_t value);
  void set_attribute(const std::string& object, const std::string& name, double value);
  void set_attribute(const std::string& object, const std::string& name,
                     const std::vector<std::string>& values);
  void set_attribute(const std::string& object, const std::string& name,
                     const std::vector<std::int64_t>& values);

  struct Layout {
    Extents chunk;               // empty: contiguous
    bool unlimited = false;      // the first dim may grow
    bool all_unlimited = false;  // every dim may grow
    bool checksum = false;       // Fletcher32; needs chunks
    bool compress = false;       // shuffle + deflate 1; needs chunks
    bool early = false;          // a chunk has its place as soon as there is one, and is not filled
  };
  template <class T>
  void create_dataset(const std::string& dataset, const Extents& extents, const Layout& layout);
  template <class T>
  void create_dataset(const std::string& dataset, const Extents& extents) {
    create_dataset<T>(dataset, extents, Layout{});
  }
  void extend(const std::string& dataset, const Extents& extents);  // or cut
  bool may_grow(const std::string& dataset) const;                  // along its first dim
  Extents chunk(const std::string& dataset) const;
  /// Where in the file each chunk begins that holds rows of [begin, end): ordered by rows, then by
  /// the other dims. They have their places if the layout says early.
  std::vector<std::int64_t> chunk_addresses(const std::string& dataset, std::int64_t begin,
                                            std::int64_t end) const;

  // A block of a dataset: elements [offset, offset + count) in each dim. Values are converted
  // between numeric types by HDF5 (a u2 dataset reads into int32).
  template <class T>
  void write(const std::string& dataset, const Extents& offset, const Extents& count,
             std::span<const T> values);
  template <class T>
  void read(const std::string& dataset, const Extents& offset, const Extents& count,
            std::span<T> values) const;
  /// All of a dataset, and create + write in one call.
  template <class T>
  std::vector<T> read_all(const std::string& dataset) const;
  template <class T>
  void write_all(const std::string& dataset, const Extents& extents, std::span<const T> values);
  // Strings are stored in the width of the longest one (`width`, in bytes, where they come later).
  // No attribute _Encoding: netCDF4 decodes them by itself, and xarray would do so once more.
  void write_strings(const std::string& dataset, const std::vector<std::string>& values,
                     const Layout& layout);
  void write_strings(const std::string& dataset, const std::vector<std::string>& values) {
    write_strings(dataset, values, Layout{});
  }
  void create_strings(const std::string& dataset, std::int64_t width, const Layout& layout);
  void write_strings(const std::string& dataset, std::int64_t offset,
                     const std::vector<std::string>& values);
  std::int64_t string_width(const std::string& dataset) const;
  std::vector<std::string> read_strings(const std::string& dataset) const;

  /// Makes a 1-D dataset a dimension scale and ties it to axis `dim` of another dataset.
  void make_scale(const std::string& scale, const std::string& name);
  void attach_scale(const std::string& dataset, const std::string& scale, int dim);

 private:
  struct Written;  // datasets that something was written to, or is about to be

  explicit Hdf5File(std::filesystem::path file, std::int64_t id);
  void keep_open(const std::string& dataset, std::int64_t id);
  std::int64_t to_write(const std::string& dataset);

  std::filesystem::path path_;
  std::int64_t id_ = -1;  // hid_t
  std::unique_ptr<Written> written_;
};

}  // namespace moesaic::files
