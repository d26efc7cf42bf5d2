#pragma once

#include <string>

namespace moesaic::files {

std::string hdf5_version();  // of the library that this program was built with

}  // namespace moesaic::files
