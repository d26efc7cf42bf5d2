#pragma once

#include <map>
#include <string>

#include "hf/safetensors/safetensors.h"

namespace moesaic::hf {

/// The largest header that is read; the reference implementation refuses larger ones, too.
inline constexpr std::int64_t kMostHeaderBytes = 100'000'000;

/// Parses and checks a header whose tensors lie in `data_bytes` bytes. kBadData without the file's
/// name.
std::map<std::string, SafeTensor> parse_safetensors_header(const std::string& text,
                                                           std::int64_t data_bytes);

}  // namespace moesaic::hf
