#include "tensor/quantized.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace moesaic {
namespace {

constexpr std::uint8_t kZero = 128;  // the level that stands for 0
constexpr int kMostQ = 15, kMostLevel = 255;

std::size_t at(std::int64_t row, std::int64_t width, std::int64_t i) {
  return static_cast<std::size_t>(row * width + i);
}

}  // namespace

QuantizedRows QuantizedRows::zeros(DType type, std::int64_t rows, std::int64_t columns) {
  QuantizedRows zero{
      .type = type, .rows = rows, .columns = columns, .scales = {}, .steps = {}, .codes = {}};
  const bool int8 = type == DType::kInt8;
  zero.scales.resize(static_cast<std::size_t>(rows * zero.blocks()), 0.0F);
  zero.codes.resize(static_cast<std::size_t>(rows * zero.code_bytes()), int8 ? kZero : 0);
  for (std::int64_t i = 0; i < rows * zero.groups() && !int8; ++i) {
    zero.steps.insert(zero.steps.end(), {1, kZero});
  }
  return zero;
}

std::int64_t QuantizedRows::code_bytes() const {
  return type == DType::kInt8 ? columns : (columns + 1) / 2;
}

std::int64_t QuantizedRows::bytes() const {
  return static_cast<std::int64_t>(scales.size() * sizeof(float) + steps.size() + codes.size());
}

std::uint8_t QuantizedRows::code(std::int64_t row, std::int64_t column) const {
  if (type == DType::kInt8) {
    return codes[at(row, columns, column)];
  }
  const std::uint8_t both = codes[at(row, code_bytes(), column / 2)];
  return static_cast<std::uint8_t>(column % 2 == 0 ? both & 0xfU : both >> 4U);
}

void QuantizedRows::set_code(std::int64_t row, std::int64_t column, std::uint8_t code) {
  if (type == DType::kInt8) {
    codes[at(row, columns, column)] = code;
    return;
  }
  std::uint8_t& both = codes[at(row, code_bytes(), column / 2)];
  both = static_cast<std::uint8_t>(column % 2 == 0 ? (both & 0xf0U) | code
                                                   : (both & 0xfU) | (unsigned{code} << 4U));
}

float QuantizedRows::scale(std::int64_t row, std::int64_t column) const {
  return scales[at(row, blocks(), column / kQuantizedBlock)];
}

std::span<const std::uint8_t> QuantizedRows::step(std::int64_t row, std::int64_t column) const {
  return std::span(steps).subspan(at(row, 2 * groups(), column / kQuantizedGroup * 2), 2);
}

void QuantizedRows::decode(std::span<float> w) const {
  require(std::ssize(w) == rows * columns, "quantized rows decoded into another size");
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t k = 0; k < columns; ++k) {
      int level = code(row, k);
      if (type == DType::kInt4) {
        const auto pair = step(row, k);
        level = level * pair[0] + pair[1];
      }
      w[at(row, columns, k)] = scale(row, k) * static_cast<float>(level - kZero);
    }
  }
}

std::string QuantizedRows::problem() const {
  for (std::size_t i = 0; i < scales.size(); ++i) {
    if (!std::isfinite(scales[i]) || scales[i] < 0.0F) {
      return fmt::format("scale [{}, {}] is {}, not a finite number of at least 0",
                         static_cast<std::int64_t>(i) / blocks(),
                         static_cast<std::int64_t>(i) % blocks(), scales[i]);
    }
  }
  if (type == DType::kInt8) {
    const auto zero = std::find(codes.begin(), codes.end(), std::uint8_t{0});
    return zero == codes.end()
               ? ""
               : fmt::format("code [{}, {}] is 0, which int8 does not have",
                             (zero - codes.begin()) / columns, (zero - codes.begin()) % columns);
  }
  for (std::size_t i = 0; i < steps.size(); i += 2) {
    if (kMostQ * steps[i] + steps[i + 1] > kMostLevel) {
      return fmt::format("steps [{}, {}] are ({}, {}), of which {} s + m exceeds {}",
                         static_cast<std::int64_t>(i / 2) / groups(),
                         static_cast<std::int64_t>(i / 2) % groups(), steps[i], steps[i + 1],
                         kMostQ, kMostLevel);
    }
  }
  return "";
}

void copy_rows(const QuantizedRows& source, std::int64_t from, std::int64_t source_column,
               std::int64_t count, QuantizedRows& target, std::int64_t to, std::int64_t column) {
  require(source.type == target.type && source_column % kQuantizedBlock == 0 &&
              column % kQuantizedBlock == 0,
          "quantized columns are copied block-aligned");
  const std::int64_t width = std::min(source.columns - source_column, target.columns - column);
  // Copies `entries` of each row of an array; position_of(column): where the column's entry is.
  const auto copy = [&](const auto& source_array, std::int64_t source_width, auto& target_array,
                        std::int64_t target_width, std::int64_t entries, auto position_of) {
    for (std::int64_t i = 0; i < count; ++i) {
      std::copy_n(source_array.begin() + (from + i) * source_width + position_of(source_column),
                  entries, target_array.begin() + (to + i) * target_width + position_of(column));
    }
  };
  const bool int8 = source.type == DType::kInt8;
  copy(source.scales, source.blocks(), target.scales, target.blocks(),
       (width + kQuantizedBlock - 1) / kQuantizedBlock,
       [](std::int64_t k) { return k / kQuantizedBlock; });
  copy(source.codes, source.code_bytes(), target.codes, target.code_bytes(),
       int8 ? width : (width + 1) / 2, [int8](std::int64_t k) { return int8 ? k : k / 2; });
  if (!int8 && width % 2 != 0) {  // the other half of the last byte is beyond the columns
    for (std::int64_t row = to; row < to + count; ++row) {
      target.codes[at(row, target.code_bytes(), (column + width) / 2)] &= 0xfU;
    }
  }
  if (!int8) {
    copy(source.steps, 2 * source.groups(), target.steps, 2 * target.groups(),
         2 * ((width + kQuantizedGroup - 1) / kQuantizedGroup),
         [](std::int64_t k) { return 2 * (k / kQuantizedGroup); });
  }
}

}  // namespace moesaic
