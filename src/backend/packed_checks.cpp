#include "backend/packed_checks.h"

#include <fmt/format.h>

namespace moesaic {

PackedWeights new_packed(Backend& backend, DType format, const Shape& shape) {
  const std::int64_t columns = shape[2];
  const std::int64_t panels = packed_parts(shape[1], kPackedRows);
  return {.format = format,
          .groups = shape[0],
          .rows = shape[1],
          .columns = columns,
          .slice = {0, columns, columns},
          .words = backend.empty(DType::kI32,
                                 {shape[0], panels * packed_panel_bytes(format, columns) / 4})};
}

Error bad_mean_square(const BadNumber& bad, std::int64_t columns) {
  return {Exit::kBadData,
          fmt::format("the mean square of column {} of group {} is {}; it must be finite and "
                      "at least 0",
                      bad.place % columns, bad.place / columns, bad.value)};
}

Error bad_weight(const BadNumber& bad, const Shape& shape) {
  const std::int64_t row = bad.place / shape[2];
  return {Exit::kBadData,
          fmt::format("weights cannot be packed: row {}, column {} of group {} is {}",
                      row % shape[1], bad.place % shape[2], row / shape[1], bad.value)};
}

void check_mean_squares(const Tensor& mean_squares, std::int64_t groups, std::int64_t columns) {
  require(mean_squares.numel() == columns || mean_squares.numel() == groups * columns,
          fmt::format("mean squares {} for {} groups of {} columns", mean_squares.shape().text(),
                      groups, columns));
}

void check_unpacked(const PackedWeights& packed, const Tensor& w) {
  require(w.numel() == packed.groups * packed.rows * packed.columns,
          fmt::format("packed ({}, {}, {}) unpacked into {}", packed.groups, packed.rows,
                      packed.columns, w.shape().text()));
}

void check_packed_product(const Tensor& x, const Tensor& offsets, const PackedWeights& w,
                          const Tensor& y, const Tensor& peaks) {
  require(x.dim(1) == w.slice.count && y.dim(0) == x.dim(0) && y.dim(1) == w.rows,
          fmt::format("product of {} with packed ({}, {}, {}) into {}", x.shape().text(), w.groups,
                      w.rows, w.slice.count, y.shape().text()));
  require(
      w.columns == w.slice.blocks().count || (w.slice.before() == 0 && w.columns == w.slice.count),
      "packed weights do not have the blocks of their columns");
  require(!peaks.defined() || peaks.numel() == x.dim(0) * packed_blocks(w.slice.whole),
          fmt::format("peaks {} of {}", peaks.shape().text(), x.shape().text()));
  require(offsets.defined() ? offsets.numel() == w.groups + 1 : w.groups == 1,
          fmt::format("{} group offsets for {} groups", offsets.defined() ? offsets.numel() : 0,
                      w.groups));
}

void check_peaks(const Tensor& x, const ColumnSlice& slice, const Tensor& peaks) {
  require(x.dim(1) == slice.count && peaks.numel() == x.dim(0) * packed_blocks(slice.whole),
          fmt::format("peaks {} of {}", peaks.shape().text(), x.shape().text()));
}

}  // namespace moesaic
