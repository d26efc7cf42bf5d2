#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace moesaic {

constexpr std::int64_t kQuantizedBlock = 256;  // neighbours of a row with one scale
constexpr std::int64_t kQuantizedGroup = 32;   // of int4: those with one step and one offset

/// A quantized matrix w (N, K), row by row, as files hold it: no layout shows in it. For row n
/// and column k
///   int8   w = scales[n, k / 256] (codes[n, k] - 128), 1 <= code <= 255;
///   int4   w = scales[n, k / 256] (q s + m - 128), s and m = steps[n, k / 32, 0 and 1],
///          q = codes[n, k / 2] & 15 for even k, >> 4 for odd k, q s + m <= 255.
struct QuantizedRows {
  DType type = DType::kInt8;  // or kInt4
  std::int64_t rows = 0, columns = 0;
  std::vector<float> scales;        // (N, ceil(K / 256)), finite, at least 0
  std::vector<std::uint8_t> steps;  // (N, ceil(K / 32), 2); int8: empty
  std::vector<std::uint8_t> codes;  // (N, code_bytes)

  /// All zeros: codes that stand for 0, scales 0.
  static QuantizedRows zeros(DType type, std::int64_t rows, std::int64_t columns);

  std::int64_t blocks() const { return (columns + kQuantizedBlock - 1) / kQuantizedBlock; }
  std::int64_t groups() const { return (columns + kQuantizedGroup - 1) / kQuantizedGroup; }
  std::int64_t code_bytes() const;  // of a row
  std::int64_t bytes() const;

  std::uint8_t code(std::int64_t row, std::int64_t column) const;
  void set_code(std::int64_t row, std::int64_t column, std::uint8_t code);
  float scale(std::int64_t row, std::int64_t column) const;
  std::span<const std::uint8_t> step(std::int64_t row, std::int64_t column) const;  // s, m

  /// w (N, K): what they stand for, exactly.
  void decode(std::span<float> w) const;
  /// Why they are not what the formula allows; empty if they are.
  std::string problem() const;
};

/// Copies rows [from, from + count) of `source` with its columns from source_column on to rows
/// [to, ...) and columns [column, ...) of `target`, as many columns as both have. Both columns are
/// multiples of kQuantizedBlock, and the types are the same.
void copy_rows(const QuantizedRows& source, std::int64_t from, std::int64_t source_column,
               std::int64_t count, QuantizedRows& target, std::int64_t to, std::int64_t column);

}  // namespace moesaic
