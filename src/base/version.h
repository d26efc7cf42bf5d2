#pragma once

#include <string_view>

namespace moesaic {

std::string_view version();   // of the release, "0.1.0"
std::string_view git_hash();  // of the checkout that was built; empty outside a checkout

}  // namespace moesaic
