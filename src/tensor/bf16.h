#pragma once

#include <bit>
#include <cstdint>

namespace moesaic {

/// The upper half of a float. Conversion from float rounds to nearest even; NaN stays NaN.
struct BFloat16 {
  std::uint16_t bits = 0;

  BFloat16() = default;
  explicit BFloat16(float value) {
    const auto word = std::bit_cast<std::uint32_t>(value);
    const bool nan = (word & 0x7fffffffU) > 0x7f800000U;
    const std::uint32_t rounded = nan ? word | 0x400000U : word + 0x7fffU + ((word >> 16U) & 1U);
    bits = static_cast<std::uint16_t>(rounded >> 16U);
  }
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U);
  }
};

}  // namespace moesaic
