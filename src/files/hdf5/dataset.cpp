#include <fmt/format.h>

#include <array>
#include <limits>

#include "base/text.h"
#include "files/hdf5/file.h"
#include "files/hdf5/handle.h"

namespace moesaic::files {
namespace {

std::size_t element_count(const Extents& extents) {
  std::size_t count = 1;
  for (const std::int64_t extent : extents) {
    count *= static_cast<std::size_t>(extent);
  }
  return count;
}

Extents extents_of(hid_t dataset, const Subject& subject) {
  const Handle space(H5Dget_space(dataset), H5Sclose);
  const int dims = space.valid() ? H5Sget_simple_extent_ndims(space.id()) : -1;
  check_read(dims, subject, "has no readable extents");
  std::vector<hsize_t> extents(static_cast<std::size_t>(dims));
  check_read(H5Sget_simple_extent_dims(space.id(), extents.data(), nullptr), subject,
             "has no readable extents");
  constexpr auto kMost = static_cast<hsize_t>(std::numeric_limits<std::int64_t>::max());
  Extents result;
  for (const hsize_t extent : extents) {
    if (extent > kMost) {
      fail_hdf5(Exit::kBadData, subject.file, subject.object, "has absurd extents", "");
    }
    result.push_back(static_cast<std::int64_t>(extent));
  }
  return result;
}

template <class T>
void check_number_type(hid_t dataset, const Subject& subject) {
  const Handle type(H5Dget_type(dataset), H5Tclose);
  const H5T_class_t kind = H5Tget_class(type.id());
  if (kind != H5T_INTEGER && (kind != H5T_FLOAT || !std::is_floating_point_v<T>)) {
    fail_hdf5(Exit::kBadData, subject.file, subject.object,
              std::is_floating_point_v<T> ? "holds no numbers" : "holds no whole numbers", "");
  }
}

}  // namespace

void check_filters(hid_t dataset, const Subject& subject) {
  const Handle list(H5Dget_create_plist(dataset), H5Pclose);
  const int count = H5Pget_nfilters(list.id());
  for (int i = 0; i < count; ++i) {
    unsigned flags = 0;
    unsigned config = 0;
    std::size_t values = 0;
    std::array<char, 64> name{};
    const H5Z_filter_t filter = H5Pget_filter(list.id(), static_cast<unsigned>(i), &flags, &values,
                                              nullptr, name.size() - 1, name.data(), &config);
    if (filter >= 0 && H5Zfilter_avail(filter) <= 0) {
      fail_hdf5(Exit::kBadData, subject.file, subject.object,
                fmt::format("is packed by the filter {} ({}), which this HDF5 library has not: "
                            "where it is installed, run h5repack -f GZIP=1 {} NEW.h5",
                            filter, name[0] != '\0' ? name.data() : "without a name",
                            subject.file.string()),
                "");
    }
  }
}

Handle select_block(hid_t dataset, const Subject& subject, const Extents& offset,
                    const Extents& count) {
  const Extents extents = extents_of(dataset, subject);
  bool inside = offset.size() == extents.size() && count.size() == extents.size();
  for (std::size_t i = 0; inside && i < extents.size(); ++i) {
    inside = offset[i] >= 0 && count[i] >= 0 && offset[i] <= extents[i] &&
             count[i] <= extents[i] - offset[i];
  }
  if (!inside) {
    fail_hdf5(Exit::kBadData, subject.file, subject.object,
              fmt::format("block [{}] + [{}] is outside the dataset's [{}]", join(offset, ", "),
                          join(count, ", "), join(extents, ", ")),
              "");
  }
  Handle space(H5Dget_space(dataset), H5Sclose);
  if (!extents.empty()) {
    check_read(H5Sselect_hyperslab(space.id(), H5S_SELECT_SET, to_hdf5(offset).data(), nullptr,
                                   to_hdf5(count).data(), nullptr),
               subject, "cannot select a block");
  }
  return space;
}

Handle memory_space(std::int64_t count) {
  const auto extent = static_cast<hsize_t>(count);
  return {H5Screate_simple(1, &extent, nullptr), H5Sclose};
}

void check_plausible(const Extents& extents, std::size_t element, const Subject& subject) {
  const auto file_bytes = static_cast<double>(std::filesystem::file_size(subject.file));
  double bytes = static_cast<double>(element);
  for (const std::int64_t extent : extents) {
    bytes *= static_cast<double>(extent);
  }
  if (bytes > 1100.0 * file_bytes + 1e6) {
    fail_hdf5(Exit::kBadData, subject.file, subject.object,
              fmt::format("claims {:.0f} bytes, more than a file of {:.0f} bytes can hold", bytes,
                          file_bytes),
              "");
  }
}

Extents Hdf5File::extents(const std::string& dataset) const {
  const Subject subject{path_, dataset};
  return extents_of(open_dataset(id_, subject).id(), subject);
}

std::string Hdf5File::type_of(const std::string& dataset) const {
  const Handle object = open_dataset(id_, {path_, dataset});
  const Handle type(H5Dget_type(object.id()), H5Tclose);
  const std::size_t size = H5Tget_size(type.id());
  switch (H5Tget_class(type.id())) {
    case H5T_INTEGER:
      return fmt::format("{}{}", H5Tget_sign(type.id()) == H5T_SGN_NONE ? 'u' : 'i', size);
    case H5T_FLOAT:
      return fmt::format("f{}", size);
    case H5T_STRING:
      return "string";
    default:
      return "other";
  }
}

void Hdf5File::extend(const std::string& dataset, const Extents& extents) {
  const Subject subject{path_, dataset, id_};
  check_write(H5Dset_extent(to_write(dataset), to_hdf5(extents).data()), subject,
              "cannot be resized");
}

bool Hdf5File::may_grow(const std::string& dataset) const {
  const Handle object = open_dataset(id_, {path_, dataset});
  const Handle space(H5Dget_space(object.id()), H5Sclose);
  std::vector<hsize_t> most(
      static_cast<std::size_t>(std::max(1, H5Sget_simple_extent_ndims(space.id()))));
  H5Sget_simple_extent_dims(space.id(), nullptr, most.data());
  return most.front() == H5S_UNLIMITED;
}

template <class T>
void Hdf5File::write(const std::string& dataset, const Extents& offset, const Extents& count,
                     std::span<const T> values) {
  const Subject subject{path_, dataset, id_};
  const hid_t object = to_write(dataset);
  const Handle space = select_block(object, subject, offset, count);
  require(element_count(count) == values.size(), "buffer and block of a dataset differ in size");
  if (values.empty()) {
    return;
  }
  const Handle memory = memory_space(std::ssize(values));
  check_write(H5Dwrite(object, type_id<T>(), memory.id(), space.id(), H5P_DEFAULT, values.data()),
              subject, "cannot be written");
}

template <class T>
void Hdf5File::read(const std::string& dataset, const Extents& offset, const Extents& count,
                    std::span<T> values) const {
  const Subject subject{path_, dataset};
  const Handle object = open_dataset(id_, subject);
  check_number_type<T>(object.id(), subject);
  const Handle space = select_block(object.id(), subject, offset, count);
  require(element_count(count) == values.size(), "buffer and block of a dataset differ in size");
  if (values.empty()) {
    return;
  }
  check_filters(object.id(), subject);
  const Handle memory = memory_space(std::ssize(values));
  check_read(
      H5Dread(object.id(), type_id<T>(), memory.id(), space.id(), H5P_DEFAULT, values.data()),
      subject, "cannot be read");
}

template <class T>
std::vector<T> Hdf5File::read_all(const std::string& dataset) const {
  const Extents all = extents(dataset);
  check_plausible(all, sizeof(T), {path_, dataset});
  std::vector<T> values(element_count(all));
  read<T>(dataset, Extents(all.size(), 0), all, values);
  return values;
}

// What the header offers, for every T.
using Name = const std::string&;
using Block = const Extents&;

template void Hdf5File::write<std::uint8_t>(Name, Block, Block, std::span<const std::uint8_t>);
template void Hdf5File::read<std::uint8_t>(Name, Block, Block, std::span<std::uint8_t>) const;
template std::vector<std::uint8_t> Hdf5File::read_all<std::uint8_t>(Name) const;

template void Hdf5File::write<std::uint16_t>(Name, Block, Block, std::span<const std::uint16_t>);
template void Hdf5File::read<std::uint16_t>(Name, Block, Block, std::span<std::uint16_t>) const;
template std::vector<std::uint16_t> Hdf5File::read_all<std::uint16_t>(Name) const;

template void Hdf5File::write<std::uint32_t>(Name, Block, Block, std::span<const std::uint32_t>);
template void Hdf5File::read<std::uint32_t>(Name, Block, Block, std::span<std::uint32_t>) const;
template std::vector<std::uint32_t> Hdf5File::read_all<std::uint32_t>(Name) const;

template void Hdf5File::write<std::uint64_t>(Name, Block, Block, std::span<const std::uint64_t>);
template void Hdf5File::read<std::uint64_t>(Name, Block, Block, std::span<std::uint64_t>) const;
template std::vector<std::uint64_t> Hdf5File::read_all<std::uint64_t>(Name) const;

template void Hdf5File::write<std::int8_t>(Name, Block, Block, std::span<const std::int8_t>);
template void Hdf5File::read<std::int8_t>(Name, Block, Block, std::span<std::int8_t>) const;
template std::vector<std::int8_t> Hdf5File::read_all<std::int8_t>(Name) const;

template void Hdf5File::write<std::int16_t>(Name, Block, Block, std::span<const std::int16_t>);
template void Hdf5File::read<std::int16_t>(Name, Block, Block, std::span<std::int16_t>) const;
template std::vector<std::int16_t> Hdf5File::read_all<std::int16_t>(Name) const;

template void Hdf5File::write<std::int32_t>(Name, Block, Block, std::span<const std::int32_t>);
template void Hdf5File::read<std::int32_t>(Name, Block, Block, std::span<std::int32_t>) const;
template std::vector<std::int32_t> Hdf5File::read_all<std::int32_t>(Name) const;

template void Hdf5File::write<std::int64_t>(Name, Block, Block, std::span<const std::int64_t>);
template void Hdf5File::read<std::int64_t>(Name, Block, Block, std::span<std::int64_t>) const;
template std::vector<std::int64_t> Hdf5File::read_all<std::int64_t>(Name) const;

template void Hdf5File::write<float>(Name, Block, Block, std::span<const float>);
template void Hdf5File::read<float>(Name, Block, Block, std::span<float>) const;
template std::vector<float> Hdf5File::read_all<float>(Name) const;

template void Hdf5File::write<double>(Name, Block, Block, std::span<const double>);
template void Hdf5File::read<double>(Name, Block, Block, std::span<double>) const;
template std::vector<double> Hdf5File::read_all<double>(Name) const;

}  // namespace moesaic::files
