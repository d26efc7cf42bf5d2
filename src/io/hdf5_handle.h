#pragma once

#include <hdf5.h>

#include <array>
#include <bit>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"

// What the sources behind hdf5.h share; nothing else includes this.
namespace moesaic::io {

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

 private:
  hid_t id_;
  Closer close_;
};

/// The innermost description on HDF5's error stack. Ask before any other HDF5 call clears it.
std::string hdf5_reason();

/// Throws "FILE: OBJECT: what (reason)".
[[noreturn]] void fail_hdf5(Exit code, const std::filesystem::path& file, std::string_view object,
                            std::string_view what, const std::string& reason = hdf5_reason());

/// Which object of which file a call is about, for its error messages.
struct Subject {
  const std::filesystem::path& file;
  std::string object;
};
void check_read(std::int64_t status, const Subject& subject, std::string_view what);
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
/// Variable-length UTF-8.
Handle string_type();

/// Reads or writes every element of a dataset or attribute (through `transfer`) as strings.
std::vector<std::string> strings_of(hid_t type, std::size_t count, const Subject& subject,
                                    herr_t (*transfer)(hid_t object, hid_t type, void* out),
                                    hid_t object);

/// Whether each link of the path exists; HDF5 itself fails at the first one that is missing.
bool link_exists(hid_t file, const std::string& object);
/// kBadData if there is no such object.
Handle open_object(hid_t file, const Subject& subject);

/// kBadData if it is missing or not a dataset.
Handle open_dataset(hid_t file, const Subject& subject);

inline std::vector<hsize_t> to_hdf5(const std::vector<std::int64_t>& extents) {
  return {extents.begin(), extents.end()};
}

}  // namespace moesaic::io
