#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "files/hdf5/file.h"
#include "files/hdf5/handle.h"

namespace moesaic::files {
namespace {

/// Strings are packed and read in blocks of rows, so that one long string does not cost the memory
/// of a whole dataset of them.
std::int64_t block_rows(std::size_t width) {
  constexpr std::size_t kBlockBytes = std::size_t{4} << 20U;
  return static_cast<std::int64_t>(std::max<std::size_t>(1, kBlockBytes / width));
}

std::vector<std::string> variable_strings(hid_t type, std::size_t count, const Subject& subject,
                                          const Transfer& read) {
  std::vector<char*> raw(count, nullptr);
  check_read(read(type, raw.data()), subject, "cannot read the strings");
  std::vector<std::string> values;
  values.reserve(count);
  for (char* text : raw) {
    values.emplace_back(text != nullptr ? text : "");
    H5free_memory(text);
  }
  return values;
}

std::vector<std::string> fixed_strings(hid_t type, std::size_t count, const Subject& subject,
                                       const Transfer& read) {
  const std::size_t width = H5Tget_size(type);
  std::vector<char> raw(count * width);
  check_read(read(type, raw.data()), subject, "cannot be read");
  std::vector<std::string> values;
  values.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const char* text = raw.data() + i * width;
    values.emplace_back(text, strnlen(text, width));
  }
  return values;
}

}  // namespace

Handle string_type(std::size_t width) {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type.id(), width);
  H5Tset_strpad(type.id(), H5T_STR_NULLPAD);
  H5Tset_cset(type.id(), H5T_CSET_UTF8);
  return type;
}

std::size_t widest(std::span<const std::string> values) {
  std::size_t width = 1;  // HDF5 has no strings of no bytes
  for (const std::string& value : values) {
    width = std::max(width, value.size());
  }
  return width;
}

std::vector<char> packed(std::span<const std::string> values, std::size_t width) {
  std::vector<char> raw(values.size() * width, '\0');
  for (std::size_t i = 0; i < values.size(); ++i) {
    require(values[i].size() <= width, "a string is longer than those of its dataset");
    values[i].copy(raw.data() + i * width, width);
  }
  return raw;
}

std::vector<std::string> strings_of(hid_t type, std::size_t count, const Subject& subject,
                                    const Transfer& read) {
  if (H5Tget_class(type) != H5T_STRING) {
    fail_hdf5(Exit::kBadData, subject.file, subject.object, "holds no strings", "");
  }
  if (count == 0) {
    return {};
  }
  return H5Tis_variable_str(type) > 0 ? variable_strings(type, count, subject, read)
                                      : fixed_strings(type, count, subject, read);
}

std::int64_t Hdf5File::string_width(const std::string& dataset) const {
  const Handle object = open_dataset(id_, {path_, dataset});
  const Handle type(H5Dget_type(object.id()), H5Tclose);
  return static_cast<std::int64_t>(H5Tget_size(type.id()));
}

void Hdf5File::write_strings(const std::string& dataset, std::int64_t offset,
                             const std::vector<std::string>& values) {
  const Subject subject{path_, dataset, id_};
  const hid_t object = to_write(dataset);
  const auto width = static_cast<std::size_t>(string_width(dataset));
  const std::int64_t block = block_rows(width);
  for (std::int64_t begin = 0; begin < std::ssize(values); begin += block) {
    const std::int64_t rows = std::min(block, std::ssize(values) - begin);
    const Handle space = select_block(object, subject, {offset + begin}, {rows});
    const auto part =
        std::span(values).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(rows));
    const std::vector<char> raw = packed(part, width);
    check_write(H5Dwrite(object, string_type(width).id(), memory_space(rows).id(), space.id(),
                         H5P_DEFAULT, raw.data()),
                subject, "cannot be written");
  }
}

std::vector<std::string> Hdf5File::read_strings(const std::string& dataset) const {
  const Subject subject{path_, dataset};
  const Handle object = open_dataset(id_, subject);
  check_filters(object.id(), subject);
  const Handle type(H5Dget_type(object.id()), H5Tclose);
  const Extents all = extents(dataset);
  if (all.size() != 1) {
    fail_hdf5(Exit::kBadData, path_, dataset, fmt::format("has {} dims, not 1", all.size()), "");
  }
  const std::size_t width = std::max<std::size_t>(1, H5Tget_size(type.id()));
  check_plausible(all, width, subject);
  const std::int64_t block = block_rows(width);
  std::vector<std::string> values;
  for (std::int64_t begin = 0; begin < all[0]; begin += block) {
    const std::int64_t rows = std::min(block, all[0] - begin);
    const Handle space = select_block(object.id(), subject, {begin}, {rows});
    const Handle packed_rows = memory_space(rows);
    const auto read = [&](hid_t memory, void* out) {
      return H5Dread(object.id(), memory, packed_rows.id(), space.id(), H5P_DEFAULT, out);
    };
    const auto part = strings_of(type.id(), static_cast<std::size_t>(rows), subject, read);
    values.insert(values.end(), part.begin(), part.end());
  }
  return values;
}

}  // namespace moesaic::files
