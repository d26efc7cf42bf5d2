#include <fmt/format.h>
#include <hdf5_hl.h>

#include <algorithm>
#include <limits>

#include "files/hdf5/file.h"
#include "files/hdf5/handle.h"

namespace moesaic::files {
namespace {

std::vector<hsize_t> chunk_of(const Hdf5File::Layout& layout, const Extents& extents) {
  std::vector<hsize_t> chunk = to_hdf5(layout.chunk);
  for (std::size_t i = 0; i < chunk.size(); ++i) {
    const bool grows = layout.all_unlimited || (layout.unlimited && i == 0);
    if (!grows) {
      chunk[i] = std::min(chunk[i], static_cast<hsize_t>(extents[i]));
    }
  }
  return chunk;
}

/// Dataset creation properties. No times are stored, so that equal data make equal files.
Handle properties(const Hdf5File::Layout& layout, const Extents& extents, bool floating) {
  Handle list(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_obj_track_times(list.id(), false);
  const std::vector<hsize_t> chunk = chunk_of(layout, extents);
  if (chunk.empty() || std::find(chunk.begin(), chunk.end(), 0U) != chunk.end()) {
    return list;  // what is empty and cannot grow needs no chunks
  }
  H5Pset_chunk(list.id(), static_cast<int>(chunk.size()), chunk.data());
  if (layout.early) {
    H5Pset_alloc_time(list.id(), H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(list.id(), H5D_FILL_TIME_NEVER);
  } else if (floating) {
    constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
    H5Pset_fill_value(list.id(), H5T_NATIVE_DOUBLE, &kNan);
  }
  if (layout.compress) {
    H5Pset_shuffle(list.id());
    H5Pset_deflate(list.id(), 1);
  }
  if (layout.checksum) {
    H5Pset_fletcher32(list.id());
  }
  return list;
}

/// The groups above an object, without times too.
void make_groups(hid_t file, const Subject& subject) {
  const Handle list(H5Pcreate(H5P_GROUP_CREATE), H5Pclose);
  H5Pset_obj_track_times(list.id(), false);
  for (std::size_t end = subject.object.find('/', 1); end != std::string::npos;
       end = subject.object.find('/', end + 1)) {
    const std::string name = subject.object.substr(0, end);
    if (!link_exists(file, {subject.file, name})) {
      const Handle group(H5Gcreate(file, name.c_str(), H5P_DEFAULT, list.id(), H5P_DEFAULT),
                         H5Gclose);
      check_write(group.id(), {subject.file, name, subject.id}, "cannot be created");
    }
  }
}

Handle make_dataset(hid_t file, const Subject& subject, hid_t type, bool floating,
                    const Extents& extents, const Hdf5File::Layout& layout) {
  require(layout.chunk.empty() || layout.chunk.size() == extents.size(),
          "chunk and extents of a dataset differ in dims");
  std::vector<hsize_t> most = to_hdf5(extents);
  for (std::size_t i = 0; i < most.size(); ++i) {
    if (layout.all_unlimited || (layout.unlimited && i == 0)) {
      most[i] = H5S_UNLIMITED;
    }
  }
  const Handle space(
      H5Screate_simple(static_cast<int>(extents.size()), to_hdf5(extents).data(), most.data()),
      H5Sclose);
  make_groups(file, subject);
  const Handle list = properties(layout, extents, floating);
  Handle dataset(H5Dcreate(file, subject.object.c_str(), type, space.id(), H5P_DEFAULT, list.id(),
                           H5P_DEFAULT),
                 H5Dclose);
  check_write(dataset.id(), subject, "cannot be created");
  return dataset;
}

}  // namespace

template <class T>
void Hdf5File::create_dataset(const std::string& dataset, const Extents& extents,
                              const Layout& layout) {
  keep_open(dataset, make_dataset(id_, {path_, dataset, id_}, type_id<T>(),
                                  std::is_floating_point_v<T>, extents, layout)
                         .release());
}

template <class T>
void Hdf5File::write_all(const std::string& dataset, const Extents& extents,
                         std::span<const T> values) {
  create_dataset<T>(dataset, extents, Layout{});
  write<T>(dataset, Extents(extents.size(), 0), extents, values);
}

void Hdf5File::write_strings(const std::string& dataset, const std::vector<std::string>& values,
                             const Layout& layout) {
  keep_open(dataset, make_dataset(id_, {path_, dataset, id_}, string_type(widest(values)).id(),
                                  false, {std::ssize(values)}, layout)
                         .release());
  write_strings(dataset, 0, values);
}

void Hdf5File::create_strings(const std::string& dataset, std::int64_t width,
                              const Layout& layout) {
  keep_open(dataset,
            make_dataset(id_, {path_, dataset, id_},
                         string_type(static_cast<std::size_t>(width)).id(), false, {0}, layout)
                .release());
}

void Hdf5File::make_scale(const std::string& scale, const std::string& name) {
  const Subject subject{path_, scale, id_};
  const Handle object = open_dataset(id_, subject);
  check_write(H5DSset_scale(object.id(), name.c_str()), subject, "cannot become a dimension scale");
}

void Hdf5File::attach_scale(const std::string& dataset, const std::string& scale, int dim) {
  const Subject subject{path_, dataset, id_};
  const Handle object = open_dataset(id_, subject);
  const Handle other = open_dataset(id_, {path_, scale});
  check_write(H5DSattach_scale(object.id(), other.id(), static_cast<unsigned>(dim)), subject,
              fmt::format("cannot be tied to the scale {}", scale));
}

// What the header offers, for every T.
using Name = const std::string&;
using Block = const Extents&;

template void Hdf5File::create_dataset<std::uint8_t>(Name, Block, const Layout&);
template void Hdf5File::write_all<std::uint8_t>(Name, Block, std::span<const std::uint8_t>);

template void Hdf5File::create_dataset<std::uint16_t>(Name, Block, const Layout&);
template void Hdf5File::write_all<std::uint16_t>(Name, Block, std::span<const std::uint16_t>);

template void Hdf5File::create_dataset<std::uint32_t>(Name, Block, const Layout&);
template void Hdf5File::write_all<std::uint32_t>(Name, Block, std::span<const std::uint32_t>);

template void Hdf5File::create_dataset<std::uint64_t>(Name, Block, const Layout&);
template void Hdf5File::write_all<std::uint64_t>(Name, Block, std::span<const std::uint64_t>);

template void Hdf5File::create_dataset<std::int8_t>(Name, Block, const Layout&);
template void Hdf5File::write_all<std::int8_t>(Name, Block, std::span<const std::int8_t>);

template void Hdf5File::create_dataset<std::int16_t>(Name, Block, const Layout&);
template void Hdf5File::write_all<std::int16_t>(Name, Block, std::span<const std::int16_t>);

template void Hdf5File::create_dataset<std::int32_t>(Name, Block, const Layout&);
template void Hdf5File::write_all<std::int32_t>(Name, Block, std::span<const std::int32_t>);

template void Hdf5File::create_dataset<std::int64_t>(Name, Block, const Layout&);
template void Hdf5File::write_all<std::int64_t>(Name, Block, std::span<const std::int64_t>);

template void Hdf5File::create_dataset<float>(Name, Block, const Layout&);
template void Hdf5File::write_all<float>(Name, Block, std::span<const float>);

template void Hdf5File::create_dataset<double>(Name, Block, const Layout&);
template void Hdf5File::write_all<double>(Name, Block, std::span<const double>);

}  // namespace moesaic::files
