#pragma once

#include <hdf5.h>

#include <array>
#include <bit>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"

// What the sources behind file.h share; nothing else includes this.
namespace moesaic::files {

/// Owns one HDF5 identifier.
class Handle {
 public:
  using Closer = herr_t (*)(hid_t);
  Handle(hid_t id, Closer close) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&&) = delete;
  ~Handle() {
    if (id_ >= 0) {
      close_(id_);
    }
  }
  hid_t id() const { return id_; }
  bool valid() const { return id_ >= 0; }
  hid_t release() { return std::exchange(id_, -1); }

 private:
  hid_t id_;
  Closer close_;
};

/// Why an HDF5 call failed.
struct Hdf5Failure {
  std::string reason;  // the innermost description on HDF5's error stack
  int error = 0;       // errno of the system call that failed; 0: it was none
};
/// Ask before any other HDF5 call clears the stack.
Hdf5Failure hdf5_failure();

/// Throws "FILE: OBJECT: what (reason)".
[[noreturn]] void fail_hdf5(Exit code, const std::filesystem::path& file, std::string_view object,
                            std::string_view what, const std::string& reason);

/// Which object of which file a call is about, for its error messages.
struct Subject {
  const std::filesystem::path& file;
  std::string object;
  hid_t id = -1;  // of the file, where something is written
};
/// A failed read: what a system call says of it (exit_of_read), else kBadData with the remedy.
[[noreturn]] void fail_read(const Subject& subject, std::string_view what,
                            const Hdf5Failure& failure);
void check_read(std::int64_t status, const Subject& subject, std::string_view what);
/// HDF5 cannot let go of a file that it cannot write, and would crash when it ends: what it still
/// holds goes to memory instead, and is lost with it.
void abandon(hid_t file);
/// Throws WriteError, and abandons the file.
[[noreturn]] void fail_write(const Subject& subject, std::string_view what,
                             const Hdf5Failure& failure);
void check_write(std::int64_t status, const Subject& subject, std::string_view what);

/// The little-endian type of T: in the file, and in the memory of every machine we build for.
template <class T>
hid_t type_id() {
  static_assert(std::is_arithmetic_v<T> && std::endian::native == std::endian::little);
  constexpr int kLog2Size = std::countr_zero(sizeof(T));
  if constexpr (std::is_floating_point_v<T>) {
    return kLog2Size == 2 ? H5T_IEEE_F32LE : H5T_IEEE_F64LE;
  } else if constexpr (std::is_signed_v<T>) {
    return std::array{H5T_STD_I8LE, H5T_STD_I16LE, H5T_STD_I32LE, H5T_STD_I64LE}[kLog2Size];
  } else {
    return std::array{H5T_STD_U8LE, H5T_STD_U16LE, H5T_STD_U32LE, H5T_STD_U64LE}[kLog2Size];
  }
}
/// UTF-8 of `width` bytes, padded with zeros. Nothing is written with a variable length: HDF5 1.10
/// may crash on a damaged heap of such strings.
Handle string_type(std::size_t width);
/// Bytes of the longest one, at least 1.
std::size_t widest(std::span<const std::string> values);
/// As string_type(width) lies in memory.
std::vector<char> packed(std::span<const std::string> values, std::size_t width);

/// `count` strings of a dataset or attribute; `read` moves them to memory. They may be of variable
/// length, as h5py writes them.
using Transfer = std::function<herr_t(hid_t type, void* out)>;
std::vector<std::string> strings_of(hid_t type, std::size_t count, const Subject& subject,
                                    const Transfer& read);

/// Whether each link of the path exists; HDF5 itself fails at the first one that is missing. Throws
/// if it cannot be told.
bool link_exists(hid_t file, const Subject& subject);
bool attribute_exists(hid_t file, const Subject& subject, const std::string& name);
/// kBadData if there is no such object.
Handle open_object(hid_t file, const Subject& subject);

/// kBadData if it is missing or not a dataset.
Handle open_dataset(hid_t file, const Subject& subject);

/// kBadData naming a filter of the dataset that this HDF5 library has not.
void check_filters(hid_t dataset, const Subject& subject);

/// The selection of a block, checked against the dataset's extents.
Handle select_block(hid_t dataset, const Subject& subject, const std::vector<std::int64_t>& offset,
                    const std::vector<std::int64_t>& count);
Handle memory_space(std::int64_t count);

/// Before memory is asked for: a damaged header may claim any size. Deflate shrinks at most 1032
/// times.
void check_plausible(const std::vector<std::int64_t>& extents, std::size_t element,
                     const Subject& subject);

inline std::vector<hsize_t> to_hdf5(const std::vector<std::int64_t>& extents) {
  return {extents.begin(), extents.end()};
}

}  // namespace moesaic::files
