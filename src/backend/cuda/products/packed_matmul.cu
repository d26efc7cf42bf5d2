#include <algorithm>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/launch.cuh"
#include "backend/cuda/device/packed_products.cuh"
#include "backend/cuda/device/packed_rows.cuh"
#include "backend/cuda/device/packed_tiles.cuh"
#include "backend/cuda/products/packed.h"

namespace moesaic::cuda {

using namespace packed;

namespace {

// A warp for each row and block of whole rows.
template <class A>
__global__ void __launch_bounds__(kRowThreads)
    find_peaks(const A* x, std::int64_t rows, ColumnSlice slice, std::int32_t* peaks) {
  const std::int64_t blocks = (slice.whole + kBlock - 1) / kBlock;
  const std::int64_t item = std::int64_t{blockIdx.x} * kRowWarps + warp_index();
  if (item >= rows * blocks) {
    return;
  }
  const std::int64_t row = item / blocks;
  const std::int64_t begin = item % blocks * kBlock - slice.begin;  // in x
  std::int32_t most = 0;
  for (int i = lane_index(); i < kBlock; i += kWarp) {
    const std::int64_t k = begin + i;
    if (k >= 0 && k < slice.count) {
      most = max(most, size_bits(load(x + row * slice.count + k)));
    }
  }
  most = warp_max(most);
  if (lane_index() == 0) {
    peaks[item] = most;
  }
}

// How high tiles of rows are, by how many rows a group has in the mean: one that is too low reads
// weights twice, one that is too high multiplies what does not exist. It changes no bit.
int tile_height(std::int64_t rows, std::int64_t groups) {
  constexpr int kHighestFew = 4 * kColumns;
  const std::int64_t mean = rows / groups;
  if (mean > kHighestFew) {
    return kManyRows;
  }
  return mean <= kColumns ? kColumns : mean <= 2 * kColumns ? 2 * kColumns : kHighestFew;
}

template <DType format, int tiles, class C>
void launch_few(CudaBackend& backend, const PackedProduct& product, int tile_count, C* y) {
  const dim3 grid(static_cast<unsigned>(tile_count), static_cast<unsigned>(product.w.panels));
  launch(backend.stream(), multiply_few<format, tiles, C>, grid, kProductThreads,
         sizeof(FewRowsShared<tiles>), product, y);
}

template <DType format, class C>
void launch_product(CudaBackend& backend, const PackedProduct& product, const RowTarget& rows,
                    C* y) {
  switch (rows.tile_height / kColumns) {
    case 1:
      return launch_few<format, 1>(backend, product, rows.tile_count, y);
    case 2:
      return launch_few<format, 2>(backend, product, rows.tile_count, y);
    case 4:
      return launch_few<format, 4>(backend, product, rows.tile_count, y);
    default:
      break;
  }
  const dim3 grid(static_cast<unsigned>(rows.tile_count),
                  static_cast<unsigned>(packed_parts(product.w.panels, kManyPanels)));
  launch(backend.stream(), multiply_many<format, C>, grid, kProductThreads,
         sizeof(ManyRowsShared<format>), product, y);
}

template <DType format>
void launch_product(CudaBackend& backend, const PackedProduct& product, const RowTarget& rows,
                    const Tensor& y) {
  if (y.dtype() == DType::kF32) {
    launch_product<format>(backend, product, rows, device<float>(y));
  } else {
    launch_product<format>(backend, product, rows, device<BFloat16>(y));
  }
}

template <class A>
void launch_rounding(CudaBackend& backend, const Tensor& x, const PackedWeights& w,
                     const Tensor& peaks, const GroupedRows& groups, const RowTarget& to) {
  const std::int64_t before = w.slice.before();
  const A* const from = device<A>(x);
  const RowSource<A> source{
      .x = from,
      .columns = w.slice.count,
      .before = before,
      .depth = packed_depth(w.columns),
      .peaks =
          peaks.defined() ? device<std::int32_t>(peaks) + w.slice.begin / kPackedBlock : nullptr,
      .peak_stride = packed_blocks(w.slice.whole),
      .vectors = w.slice.count % 4 == 0 && before % 4 == 0 &&
                 reinterpret_cast<std::uintptr_t>(from) % 16 == 0};
  const std::int64_t items = x.dim(0) * packed_blocks(w.columns);
  const dim3 grid(static_cast<unsigned>(packed_parts(items, kRowWarps) + 1));
  launch(backend.stream(), round_rows<A>, grid, kRowThreads, 0, source, to, groups);
}

// Products with weights of bf16 are those of tensors.
void multiply_bf16(CudaBackend& backend, const Tensor& x, const Tensor& offsets,
                   const PackedWeights& w, const Tensor& y) {
  Tensor rounded = x;
  if (x.dtype() != DType::kBf16) {
    rounded = backend.empty(DType::kBf16, x.shape());
    backend.convert(x, rounded);
  }
  backend.grouped_matmul(rounded, offsets, bf16_matrix(w), y);
}

}  // namespace

void CudaBackend::packed_matmul(const Tensor& x, const Tensor& offsets, const PackedWeights& w,
                                const Tensor& y, const Tensor& peaks) {
  check_packed_product(x, offsets, w, y, peaks);
  const std::int64_t rows = x.dim(0);
  if (w.format == DType::kBf16) {
    return multiply_bf16(*this, x, offsets, w, y);
  }
  if (rows == 0 || w.groups == 0) {
    return;
  }
  const int height = tile_height(rows, w.groups);
  const std::int64_t tiles = (rows + (height - 1) * std::min(w.groups, rows)) / height;  // at most
  const Tensor words = empty(DType::kI32, {rows, packed_depth(w.columns) / 4});
  const Tensor scales = empty(DType::kI32, {rows, packed_blocks(w.columns), 2});
  const Tensor table = empty(DType::kI32, {tiles, 4});
  const RowTarget to{.words = reinterpret_cast<std::uint32_t*>(words.data()),
                     .scales = reinterpret_cast<RowScale*>(scales.data()),
                     .tiles = reinterpret_cast<RowTile*>(table.data()),
                     .tile_count = static_cast<int>(tiles),
                     .tile_height = height};
  const GroupedRows groups{.offsets = offsets.defined() ? device<std::int32_t>(offsets) : nullptr,
                           .groups = static_cast<int>(w.groups),
                           .rows = static_cast<int>(rows)};
  if (x.dtype() == DType::kF32) {
    launch_rounding<float>(*this, x, w, peaks, groups, to);
  } else {
    launch_rounding<BFloat16>(*this, x, w, peaks, groups, to);
  }
  const PackedProduct product{.w = panels_of(w),
                              .x = words.data(),
                              .scales = to.scales,
                              .tiles = to.tiles,
                              .depth = packed_depth(w.columns)};
  if (w.format == DType::kInt8) {
    launch_product<DType::kInt8>(*this, product, to, y);
  } else {
    launch_product<DType::kInt4>(*this, product, to, y);
  }
}

void CudaBackend::block_peaks(const Tensor& x, const ColumnSlice& slice, const Tensor& peaks) {
  const std::int64_t blocks = packed_blocks(slice.whole);
  check_peaks(x, slice, peaks);
  const dim3 grid(static_cast<unsigned>(packed_parts(x.dim(0) * blocks, kRowWarps)));
  std::int32_t* const to = device<std::int32_t>(peaks);
  if (x.dtype() == DType::kF32) {
    launch(stream(), find_peaks<float>, grid, kRowThreads, 0, device<float>(x), x.dim(0), slice,
           to);
  } else {
    launch(stream(), find_peaks<BFloat16>, grid, kRowThreads, 0, device<BFloat16>(x), x.dim(0),
           slice, to);
  }
}

}  // namespace moesaic::cuda
