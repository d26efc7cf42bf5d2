#include "hf/safetensors/stored_dtype.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "base/error.h"
#include "tensor/bf16.h"

namespace moesaic::hf {
namespace {

static_assert(std::endian::native == std::endian::little, "files are read as they lie in memory");

constexpr std::array<std::pair<std::string_view, DType>, 5> kReadable{{{"F64", DType::kF64},
                                                                       {"F32", DType::kF32},
                                                                       {"F16", DType::kF16},
                                                                       {"BF16", DType::kBf16},
                                                                       {"F8_E4M3", DType::kE4m3}}};

constexpr std::array<std::pair<std::string_view, std::int64_t>, 16> kWidths{{{"F64", 8},
                                                                             {"F32", 4},
                                                                             {"F16", 2},
                                                                             {"BF16", 2},
                                                                             {"F8_E4M3", 1},
                                                                             {"F8_E5M2", 1},
                                                                             {"F8_E8M0", 1},
                                                                             {"BOOL", 1},
                                                                             {"U8", 1},
                                                                             {"I8", 1},
                                                                             {"U16", 2},
                                                                             {"I16", 2},
                                                                             {"U32", 4},
                                                                             {"I32", 4},
                                                                             {"U64", 8},
                                                                             {"I64", 8}}};

/// A sign, an exponent and a mantissa of these widths, as IEEE 754 reads them; `all_ones` says that
/// the largest exponent holds infinity and NaN.
float small_float(std::uint32_t bits, int exponent_bits, int mantissa_bits, bool all_ones) {
  const std::uint32_t mantissa = bits & ((1U << mantissa_bits) - 1U);
  const auto most = static_cast<int>((1U << exponent_bits) - 1U);
  const int exponent = static_cast<int>(bits >> mantissa_bits) & most;
  const int bias = most / 2;
  const bool negative = ((bits >> (exponent_bits + mantissa_bits)) & 1U) != 0;
  float value = 0.0F;
  if (all_ones && exponent == most) {
    value = mantissa == 0 ? std::numeric_limits<float>::infinity()
                          : std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(mantissa), 1 - bias - mantissa_bits);
  } else {
    value = std::ldexp(static_cast<float>(mantissa + (1U << mantissa_bits)),
                       exponent - bias - mantissa_bits);
  }
  return negative ? -value : value;
}

std::array<float, 256> make_e4m3() {
  std::array<float, 256> values{};
  for (std::uint32_t bits = 0; bits < values.size(); ++bits) {
    values[bits] = (bits & 0x7fU) == 0x7fU ? std::numeric_limits<float>::quiet_NaN()
                                           : small_float(bits, 4, 3, false);
  }
  return values;
}

/// Rounds to nearest even by adding in a format whose last bit is the half's.
std::uint16_t to_half(float value) {
  const auto word = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((word >> 16U) & 0x8000U);
  const std::uint32_t magnitude = word & 0x7fffffffU;
  if (magnitude > 0x7f800000U) {
    return static_cast<std::uint16_t>(sign | 0x7e00U);
  }
  if (magnitude >= 0x477ff000U) {  // 65520 rounds to infinity
    return static_cast<std::uint16_t>(sign | 0x7c00U);
  }
  if (magnitude < 0x38800000U) {  // below 2^-14: a multiple of 2^-24
    const float scaled = std::bit_cast<float>(magnitude) * 16777216.0F;
    return static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(std::nearbyint(scaled)));
  }
  const std::uint32_t rounded = magnitude + 0xfffU + ((magnitude >> 13U) & 1U);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000U) >> 13U));
}

template <class Stored, class Convert>
void decode_each(std::span<const std::byte> bytes, std::span<float> values,
                 const Convert& convert) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    Stored stored;
    std::memcpy(&stored, &bytes[i * sizeof(Stored)], sizeof(Stored));
    values[i] = convert(stored);
  }
}

template <class Convert>
void encode_each(std::span<const float> values, std::span<std::byte> bytes,
                 const Convert& convert) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto stored = convert(values[i]);
    std::memcpy(&bytes[i * sizeof(stored)], &stored, sizeof(stored));
  }
}

}  // namespace

std::optional<DType> stored_dtype(std::string_view name) {
  for (const auto& [known, type] : kReadable) {
    if (known == name) {
      return type;
    }
  }
  return std::nullopt;
}

std::string_view stored_name(DType dtype) {
  for (const auto& [name, known] : kReadable) {
    if (known == dtype) {
      return name;
    }
  }
  require(false, "not a format of safetensors");
  return {};
}

std::int64_t width_of(std::string_view name) {
  for (const auto& [known, width] : kWidths) {
    if (known == name) {
      return width;
    }
  }
  return 0;
}

void decode(DType dtype, std::span<const std::byte> bytes, std::span<float> values) {
  require(bytes.size() == values.size() * size_of(dtype), "decode: bytes and values differ");
  static const std::array<float, 256> e4m3 = make_e4m3();
  if (dtype == DType::kF32) {
    std::memcpy(values.data(), bytes.data(), bytes.size());
  } else if (dtype == DType::kF64) {
    decode_each<double>(bytes, values, [](double v) { return static_cast<float>(v); });
  } else if (dtype == DType::kF16) {
    decode_each<std::uint16_t>(bytes, values,
                               [](std::uint16_t v) { return small_float(v, 5, 10, true); });
  } else if (dtype == DType::kBf16) {
    decode_each<BFloat16>(bytes, values, [](BFloat16 v) { return static_cast<float>(v); });
  } else {
    decode_each<std::uint8_t>(bytes, values, [](std::uint8_t v) { return e4m3[v]; });
  }
}

void encode(DType dtype, std::span<const float> values, std::span<std::byte> bytes) {
  require(bytes.size() == values.size() * size_of(dtype), "encode: bytes and values differ");
  require(dtype != DType::kE4m3, "encode: e4m3 is only read");
  if (dtype == DType::kF32) {
    std::memcpy(bytes.data(), values.data(), bytes.size());
  } else if (dtype == DType::kF64) {
    encode_each(values, bytes, [](float v) { return static_cast<double>(v); });
  } else if (dtype == DType::kF16) {
    encode_each(values, bytes, to_half);
  } else {
    encode_each(values, bytes, [](float v) { return BFloat16(v); });
  }
}

}  // namespace moesaic::hf
