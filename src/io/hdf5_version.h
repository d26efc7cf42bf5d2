#pragma once

#include <string>

namespace moesaic::io {

std::string hdf5_version();  // of the library that this program was built with

}  // namespace moesaic::io
