#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace moesaic::hf {

/// Number formats of stored tensors that can be read. kF8E4M3 has 4 bits of exponent, 3 of mantissa
/// and no infinity (Micikevicius et al. 2022); it is only read.
enum class StoredType { kF64, kF32, kF16, kBF16, kF8E4M3 };

/// The format that a safetensors file calls so; nothing for one that cannot be read.
std::optional<StoredType> stored_type(std::string_view name);
std::string_view name_of(StoredType type);
/// Bytes of an element of any format of safetensors; 0 if it is not known.
std::int64_t width_of(std::string_view name);
std::int64_t width_of(StoredType type);

/// bytes: little-endian, values.size() elements.
void decode(StoredType type, std::span<const std::byte> bytes, std::span<float> values);
/// Rounds to nearest even. What does not fit becomes infinite.
void encode(StoredType type, std::span<const float> values, std::span<std::byte> bytes);

}  // namespace moesaic::hf
