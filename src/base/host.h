#pragma once

#include <string>

namespace moesaic {

std::string host_name();  // of this process's machine, as the system calls it

}  // namespace moesaic
