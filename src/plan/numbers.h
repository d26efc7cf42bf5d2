#pragma once

#include <cstdint>

#include "config/config.h"

namespace moesaic::plan {

constexpr double kFp32 = 4.0;  // bytes
constexpr double kBf16 = 2.0;

constexpr double real(std::int64_t value) { return static_cast<double>(value); }

/// Bytes of one number in a matrix product.
inline double compute_width(const config::Config& config) {
  return config.run.precision == DType::kBf16 ? kBf16 : kFp32;
}

}  // namespace moesaic::plan
