#include <fmt/format.h>

#include "files/hdf5/file.h"
#include "files/hdf5/handle.h"

namespace moesaic::files {
namespace {

Extents chunk_of(hid_t dataset, const Subject& subject) {
  const Handle list(H5Dget_create_plist(dataset), H5Pclose);
  if (H5Pget_layout(list.id()) != H5D_CHUNKED) {
    return {};  // as in Layout
  }
  std::vector<hsize_t> chunk(H5S_MAX_RANK);
  const int dims = H5Pget_chunk(list.id(), H5S_MAX_RANK, chunk.data());
  check_read(dims, subject, "has no chunks");
  return {chunk.begin(), chunk.begin() + dims};
}

/// Moves to the next chunk in row-major order; false behind the last one.
bool advance(std::vector<hsize_t>& at, const Extents& chunk, const Extents& begin,
             const Extents& end) {
  for (std::size_t dim = at.size(); dim-- > 0;) {
    at[dim] += static_cast<hsize_t>(chunk[dim]);
    if (at[dim] < static_cast<hsize_t>(end[dim])) {
      return true;
    }
    at[dim] = static_cast<hsize_t>(begin[dim]);
  }
  return false;
}

}  // namespace

Extents Hdf5File::chunk(const std::string& dataset) const {
  const Subject subject{path_, dataset};
  return chunk_of(open_dataset(id_, subject).id(), subject);
}

std::vector<std::int64_t> Hdf5File::chunk_addresses(const std::string& dataset, std::int64_t begin,
                                                    std::int64_t end) const {
  const Subject subject{path_, dataset};
  const Handle object = open_dataset(id_, subject);
  const Extents chunk = chunk_of(object.id(), subject);
  if (chunk.empty()) {
    fail_hdf5(Exit::kBadData, path_, dataset, "has no chunks", "");
  }
  Extents last = extents(dataset);
  require(begin >= 0 && begin < end && end <= last.at(0), "chunks of rows that a dataset has not");
  last[0] = end;
  Extents first(last.size(), 0);
  first[0] = begin / chunk[0] * chunk[0];
  std::vector<hsize_t> at = to_hdf5(first);
  std::vector<std::int64_t> addresses;
  do {
    unsigned filters = 0;
    haddr_t address = HADDR_UNDEF;
    hsize_t bytes = 0;
    check_read(H5Dget_chunk_info_by_coord(object.id(), at.data(), &filters, &address, &bytes),
               subject, "has a chunk without a readable place");
    if (address == HADDR_UNDEF || filters != 0) {
      fail_hdf5(Exit::kIoError, path_, dataset,
                fmt::format("the chunk of row {} has no place", at.front()), "");
    }
    addresses.push_back(static_cast<std::int64_t>(address));
  } while (advance(at, chunk, first, last));
  return addresses;
}

}  // namespace moesaic::files
