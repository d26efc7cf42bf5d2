#include <fmt/format.h>

#include <atomic>
#include <bit>
#include <cmath>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/packed_matmul.h"
#include "backend/cpu/packed_rows.h"
#include "backend/packed_checks.h"

namespace moesaic::cpu {
namespace {

std::int64_t panels_of(const PackedWeights& w) { return packed_parts(w.rows, kPackedRows); }

// Panel i of all groups, and the rows of w (G, N, K) that are in it.
struct Place {
  std::int64_t row, rows, group;  // row: of all groups
  std::byte* panel;
};

Place place_of(const PackedWeights& w, std::int64_t i) {
  const std::int64_t group = i / panels_of(w);
  const std::int64_t row = i % panels_of(w) * kPackedRows;
  return {.row = group * w.rows + row,
          .rows = std::min(kPackedRows, w.rows - row),
          .group = group,
          .panel = w.words.data() + i * packed_panel_bytes(w.format, w.columns)};
}

// The place of the first number of x that is not finite, or is less than the least; the number of
// them if there is none.
std::int64_t first_bad(std::span<const float> x, float least) {
  const auto bad = [&](float value) { return !std::isfinite(value) || value < least; };
  return std::find_if(x.begin(), x.end(), bad) - x.begin();
}

void check_values(const Tensor& mean_squares, std::int64_t groups, std::int64_t columns) {
  if (!mean_squares.defined()) {
    return;
  }
  check_mean_squares(mean_squares, groups, columns);
  const std::span<const float> values = mean_squares.as<float>();
  const std::int64_t i = first_bad(values, 0.0F);
  if (i < std::ssize(values)) {
    throw bad_mean_square({i, values[static_cast<std::size_t>(i)]}, columns);
  }
}

}  // namespace

PackedWeights CpuBackend::pack(DType format, const Tensor& w, const Tensor& mean_squares) {
  const std::int64_t columns = w.dim(2);
  check_values(mean_squares, w.dim(0), columns);
  PackedWeights packed = new_packed(*this, format, w.shape());
  const std::span<const float> values = w.as<float>();
  std::atomic<std::int64_t> bad = w.numel();  // the first number that is not finite
  const bool shared = mean_squares.defined() && mean_squares.numel() == columns;
  share(packed.groups * panels_of(packed), [&](std::int64_t begin, std::int64_t end, auto) {
    for (std::int64_t i = begin; i < end; ++i) {
      const Place place = place_of(packed, i);
      const std::int64_t first = place.row * columns;
      const std::int64_t count = place.rows * columns;
      const std::int64_t at = first_bad(
          values.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
          -std::numeric_limits<float>::max());
      if (at < count) {
        std::int64_t known = bad;
        while (first + at < known && !bad.compare_exchange_weak(known, first + at)) {
        }
        return;
      }
      set_.panels->pack(
          format,
          {.w = values.data() + first,
           .rows = place.rows,
           .columns = columns,
           .mean_squares = mean_squares.defined() ? mean_squares.as<float>().data() +
                                                        (shared ? 0 : place.group * columns)
                                                  : nullptr},
          place.panel);
    }
  });
  if (bad < w.numel()) {
    throw bad_weight({bad, values[static_cast<std::size_t>(bad)]}, w.shape());
  }
  return packed;
}

void CpuBackend::unpack(const PackedWeights& packed, const Tensor& w) {
  check_unpacked(packed, w);
  float* const values = w.as<float>().data();
  share(packed.groups * panels_of(packed), [&](std::int64_t begin, std::int64_t end, auto) {
    for (std::int64_t i = begin; i < end; ++i) {
      const Place place = place_of(packed, i);
      set_.panels->unpack(packed.format, place.panel, place.rows, packed.columns,
                          values + place.row * packed.columns);
    }
  });
}

PackedWeights CpuBackend::load_codes(const Shape& shape, std::span<const QuantizedRows> rows) {
  const DType type = rows.front().type;
  const std::int64_t columns = shape[2];
  PackedWeights packed{.format = type,
                       .groups = shape[0],
                       .rows = shape[1],
                       .columns = columns,
                       .slice = {0, columns, columns},
                       .words = {}};
  const std::int64_t bytes = panels_of(packed) * packed_panel_bytes(packed.format, columns);
  packed.words = empty(DType::kI32, {packed.groups, bytes / 4});
  const std::span<std::byte> panels(packed.words.data(), packed.bytes());
  clear_panels(type, columns, panels);
  std::int64_t row = 0;  // of all groups
  for (const QuantizedRows& part : rows) {
    if (part.rows > 0) {
      const auto group = panels.subspan(static_cast<std::size_t>(row / packed.rows * bytes),
                                        static_cast<std::size_t>(bytes));
      put_into_panels(part, row % packed.rows, group);
    }
    row += part.rows;
  }
  require(row == packed.groups * packed.rows, "codes do not fill their weights");
  return packed;
}

QuantizedRows CpuBackend::codes_of(const PackedWeights& packed) {
  require(packed.groups == 1 && packed.format != DType::kBf16, "no codes of one group");
  return rows_of_panels(packed.format,
                        std::span<const std::byte>(packed.words.data(), packed.bytes()),
                        packed.rows, packed.columns);
}

void CpuBackend::packed_matmul(const Tensor& x, const Tensor& offsets, const PackedWeights& w,
                               const Tensor& y, const Tensor& peaks) {
  cpu::packed_matmul(set_, threads_, x, offsets, w, y, peaks, memory_pool_);
}

void CpuBackend::block_peaks(const Tensor& x, const ColumnSlice& slice, const Tensor& peaks) {
  const std::int64_t blocks = packed_blocks(slice.whole);
  check_peaks(x, slice, peaks);
  zero(peaks);
  std::int32_t* const of_rows = peaks.as<std::int32_t>().data();
  with_kernels(x.dtype(), [&](const auto&, auto number) {
    const auto* const numbers = x.as<decltype(number)>().data();
    share(x.dim(0), [&](std::int64_t begin, std::int64_t end, auto) {
      for (std::int64_t row = begin; row < end; ++row) {
        for (std::int64_t k = 0; k < slice.count; ++k) {
          const auto value = static_cast<float>(numbers[row * slice.count + k]);
          std::int32_t& peak = of_rows[row * blocks + (slice.begin + k) / kPackedBlock];
          peak = std::max(peak, std::bit_cast<std::int32_t>(value) & 0x7fffffff);
        }
      }
    });
  });
}

}  // namespace moesaic::cpu
