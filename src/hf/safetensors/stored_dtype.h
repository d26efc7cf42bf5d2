#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "tensor/dtype.h"

namespace moesaic::hf {

/// The format that a safetensors file calls so; nothing for one that cannot be read.
std::optional<DType> stored_dtype(std::string_view name);
/// What safetensors files call a format that can be read.
std::string_view stored_name(DType dtype);
/// Bytes of an element of any format of safetensors; 0 if it is not known.
std::int64_t width_of(std::string_view name);

/// bytes: little-endian, values.size() elements.
void decode(DType dtype, std::span<const std::byte> bytes, std::span<float> values);
/// Rounds to nearest even; not to e4m3, which is only read. What does not fit becomes infinite.
void encode(DType dtype, std::span<const float> values, std::span<std::byte> bytes);

}  // namespace moesaic::hf
