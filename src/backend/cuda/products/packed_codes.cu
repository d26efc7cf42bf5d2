#include <array>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/launch.cuh"
#include "backend/cuda/device/packed.cuh"
#include "backend/cuda/products/packed.h"

// Between packed weights as they lie in memory and as files hold them (QuantizedRows).
namespace moesaic::cuda {

using namespace packed;

namespace {

constexpr int kThreads = 256;

// Rows of a file on the device; see QuantizedRows.
struct FileRows {
  std::int64_t rows, columns;
  float* scales;        // nullptr: numbers that are 0
  std::uint8_t* steps;  // of int4
  std::uint8_t* codes;

  __device__ std::int64_t code_bytes(DType format) const {
    return format == DType::kInt8 ? columns : (columns + 1) / 2;
  }
  __device__ std::int64_t groups() const {
    return (columns + static_cast<int>(kPackedGroup) - 1) / static_cast<int>(kPackedGroup);
  }
};

template <DType format>
__device__ int code_in_file(const FileRows& file, std::int64_t row, std::int64_t k) {
  if (file.scales == nullptr || k >= file.columns) {
    return format == DType::kInt8 ? kZeroLevel : 0;
  }
  const std::uint8_t* const codes = file.codes + row * file.code_bytes(format);
  return format == DType::kInt8 ? codes[k] : codes[k / 2] >> (k % 2 * 4) & 0xf;
}

__device__ Pair pair_in_file(const FileRows& file, std::int64_t row, std::int64_t k) {
  const std::int64_t group = k / static_cast<int>(kPackedGroup);
  if (file.scales == nullptr || group >= file.groups()) {
    return {1, static_cast<std::uint8_t>(kZeroLevel)};
  }
  const std::uint8_t* const step = file.steps + (row * file.groups() + group) * 2;
  return {step[0], step[1]};
}

// Row 0 of the file becomes row `first` of all groups, or if it has no numbers, of all panels.
template <DType format>
__global__ void __launch_bounds__(kThreads)
    put_rows(PackedPanels to, FileRows file, std::int64_t first) {
  const Item source(std::int64_t{kThreads} * blockIdx.x + threadIdx.x, to.units());
  if (source.row >= file.rows) {
    return;
  }
  const bool zero = file.scales == nullptr;
  Item item = source;
  item.row = zero ? source.row : to.row_of(first + source.row);
  const Eight eight = item.eight();
  std::byte* const block = to.block<format>(item.row, item.unit / kUnits);
  std::byte* const unit = unit_of<format>(block, item.unit % kUnits);
  const std::int64_t begin = std::int64_t{item.unit} * kUnit + eight.k();
  if (item.unit % kUnits == 0 && item.place == 0) {
    reinterpret_cast<float*>(block)[eight.row] =
        zero ? 0.0F : file.scales[source.row * to.blocks() + item.unit / kUnits];
  }
  if (format == DType::kInt4 && item.place % 4 == 0) {
    *pair_at(unit, eight) = pair_in_file(file, source.row, begin);
  }
  Codes codes{0, 0};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    codes.set(i, code_in_file<format>(file, source.row, begin + step_of(i)));
  }
  store_codes<format>(unit, eight, codes);
}

// The codes of one group.
template <DType format>
__global__ void __launch_bounds__(kThreads) take_rows(PackedPanels from, FileRows file) {
  const Item item(std::int64_t{kThreads} * blockIdx.x + threadIdx.x, from.units());
  if (item.row >= file.rows) {
    return;
  }
  const Eight eight = item.eight();
  std::byte* const block = from.block<format>(item.row, item.unit / kUnits);
  std::byte* const unit = unit_of<format>(block, item.unit % kUnits);
  const std::int64_t begin = std::int64_t{item.unit} * kUnit + eight.k();
  if (item.unit % kUnits == 0 && item.place == 0) {
    file.scales[item.row * from.blocks() + item.unit / kUnits] =
        reinterpret_cast<const float*>(block)[eight.row];
  }
  if (format == DType::kInt4 && item.place % 4 == 0 && begin < file.columns) {
    const std::int64_t group = begin / static_cast<int>(kPackedGroup);
    std::uint8_t* const step = file.steps + (item.row * file.groups() + group) * 2;
    const Pair pair = *pair_at(unit, eight);
    step[0] = pair.s;
    step[1] = pair.m;
  }
  const Codes codes = codes_at<format>(unit, eight);
  std::uint8_t* const out = file.codes + item.row * file.code_bytes(format);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const std::int64_t k = begin + step_of(i);
    if (k >= file.columns) {
      continue;
    }
    if (format == DType::kInt8) {
      out[k] = static_cast<std::uint8_t>(codes[i]);
    } else if (i % 2 == 0) {  // i + 1 is the next column
      const int next = k + 1 < file.columns ? codes[i + 1] : 0;
      out[k / 2] = static_cast<std::uint8_t>(codes[i] | next << 4);
    }
  }
}

// Memory on the device for the arrays of a file's rows.
struct DeviceRows {
  Tensor scales, steps, codes;

  DeviceRows(CudaBackend& backend, const QuantizedRows& rows)
      : scales(backend.empty(DType::kF32, {std::ssize(rows.scales)})),
        steps(backend.empty(DType::kInt8, {std::ssize(rows.steps)})),
        codes(backend.empty(DType::kInt8, {std::ssize(rows.codes)})) {}

  FileRows view(const QuantizedRows& rows) const {
    return {.rows = rows.rows,
            .columns = rows.columns,
            .scales = device<float>(scales),
            .steps = reinterpret_cast<std::uint8_t*>(steps.data()),
            .codes = reinterpret_cast<std::uint8_t*>(codes.data())};
  }
};

dim3 grid_of(std::int64_t rows, std::int64_t columns) {
  const std::int64_t threads = rows * packed_parts(columns, kUnit) * kPlaces;
  return dim3(static_cast<unsigned>(packed_parts(threads, kThreads)));
}

void put(CudaBackend& backend, const PackedWeights& packed, const FileRows& file,
         std::int64_t first) {
  const auto kernel =
      packed.format == DType::kInt8 ? put_rows<DType::kInt8> : put_rows<DType::kInt4>;
  launch(backend.stream(), kernel, grid_of(file.rows, packed.columns), kThreads, 0,
         panels_of(packed), file, first);
}

}  // namespace

PackedWeights CudaBackend::load_codes(const Shape& shape, std::span<const QuantizedRows> rows) {
  PackedWeights packed = new_packed(*this, rows.front().type, shape);
  put(*this, packed,
      {.rows = packed.groups * panels_of(packed).panels * kRows,
       .columns = packed.columns,
       .scales = nullptr,
       .steps = nullptr,
       .codes = nullptr},
      0);
  std::int64_t row = 0;  // of all groups
  for (const QuantizedRows& part : rows) {
    require(part.type == packed.format && part.columns == packed.columns,
            "codes of another type or width than their weights");
    const DeviceRows there(*this, part);
    upload(std::as_bytes(std::span(part.scales)), there.scales);
    upload(std::as_bytes(std::span(part.steps)), there.steps);
    upload(std::as_bytes(std::span(part.codes)), there.codes);
    require(row + part.rows <= packed.groups * packed.rows, "codes do not fit into their weights");
    put(*this, packed, there.view(part), row);
    row += part.rows;
  }
  require(row == packed.groups * packed.rows, "codes do not fill their weights");
  return packed;
}

QuantizedRows CudaBackend::codes_of(const PackedWeights& packed) {
  require(packed.groups == 1 && packed.format != DType::kBf16, "no codes of one group");
  QuantizedRows rows = QuantizedRows::zeros(packed.format, packed.rows, packed.columns);
  const DeviceRows there(*this, rows);
  const auto kernel =
      packed.format == DType::kInt8 ? take_rows<DType::kInt8> : take_rows<DType::kInt4>;
  launch(stream(), kernel, grid_of(rows.rows, rows.columns), kThreads, 0, panels_of(packed),
         there.view(rows));
  download(std::array{Download{there.scales, std::as_writable_bytes(std::span(rows.scales))},
                      Download{there.steps, std::as_writable_bytes(std::span(rows.steps))},
                      Download{there.codes, std::as_writable_bytes(std::span(rows.codes))}});
  return rows;
}

}  // namespace moesaic::cuda
