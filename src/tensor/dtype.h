#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace moesaic {

/// Number formats: of tensors in memory, of weights in files, and of keys of a config. kE4m3 has 4
/// bits of exponent, 3 of mantissa and no infinity (Micikevicius et al. 2022). int8 and int4 have
/// scales beside them (tensor/quantized.h).
enum class DType : std::uint8_t { kF32, kBf16, kI32, kF64, kF16, kE4m3, kInt8, kInt4 };

/// "fp32", "bf16", "int8", ...
const char* name_of(DType dtype);
/// The format of that name; nothing: there is none.
std::optional<DType> dtype_named(std::string_view name);

/// Bytes of an element; 0 where an element alone has none (int4).
std::size_t size_of(DType dtype);
constexpr bool is_quantized(DType dtype) { return dtype == DType::kInt8 || dtype == DType::kInt4; }

}  // namespace moesaic
