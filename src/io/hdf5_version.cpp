#include "io/hdf5_version.h"

#include <fmt/format.h>
#include <hdf5.h>

namespace moesaic::io {

std::string hdf5_version() {
  return fmt::format("{}.{}.{}", H5_VERS_MAJOR, H5_VERS_MINOR, H5_VERS_RELEASE);
}

}  // namespace moesaic::io
