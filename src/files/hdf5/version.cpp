#include "files/hdf5/version.h"

#include <fmt/format.h>
#include <hdf5.h>

namespace moesaic::files {

std::string hdf5_version() {
  return fmt::format("{}.{}.{}", H5_VERS_MAJOR, H5_VERS_MINOR, H5_VERS_RELEASE);
}

}  // namespace moesaic::files
