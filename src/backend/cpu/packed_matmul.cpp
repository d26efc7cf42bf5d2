#include "backend/cpu/packed_matmul.h"

#include <fmt/format.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "backend/cpu/group_offsets.h"
#include "backend/cpu/scratch.h"
#include "backend/packed_checks.h"

namespace moesaic::cpu {
namespace {

// Reading the weights of a group takes as long as computing so many of its rows.
constexpr std::int64_t kReading = 6;

// So many tiles of rows are laid out before threads could agree to share them.
constexpr std::int64_t kTilesAlone = 4;

// The rows of a group that has some.
struct Group {
  std::int64_t row, rows;  // of x and y
  PackedRows laid_out;
  const std::byte* w;
  std::int64_t first_tile, first_cost;  // among those of all groups
  std::int64_t unit_cost;               // of kPackedPanels panels
};

// Where `part` of `parts` begins among n.
std::int64_t border(std::int64_t n, std::int64_t part, std::int64_t parts) {
  return n / parts * part + n % parts * part / parts;
}

// All groups of a product in a row, first their tiles of rows, then their panels by what they cost,
// so that threads take equal shares of it however the rows are spread.
class Shares {
 public:
  Shares(const PackedKernels& kernels, std::span<const std::int64_t> offsets,
         const PackedWeights& w, MemoryPool& memory_pool)
      : kernels_(kernels), w_(w), panels_(packed_parts(w.rows, kPackedRows)) {
    std::int64_t padded = 0;
    for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
      padded += kernels.padded_rows(offsets[g + 1] - offsets[g]);
    }
    const std::int64_t row_bytes = packed_depth(w.columns) * kernels.number_bytes;
    const std::int64_t blocks = packed_blocks(w.columns);
    memory_ = memory_pool.take(static_cast<std::size_t>(padded * (row_bytes + 8 * blocks)));
    auto* const words = static_cast<std::byte*>(memory_.get());
    auto* const scale = reinterpret_cast<float*>(words + padded * row_bytes);
    auto* const sum = reinterpret_cast<std::int32_t*>(scale + padded * blocks);
    std::int64_t at = 0;
    for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
      const std::int64_t rows = offsets[g + 1] - offsets[g];
      if (rows == 0) {
        continue;
      }
      groups_.push_back({.row = offsets[g],
                         .rows = rows,
                         .laid_out = {reinterpret_cast<std::uint32_t*>(words + at * row_bytes),
                                      scale + at * blocks, sum + at * blocks},
                         .w = w.words.rows(static_cast<std::int64_t>(g), 1).data(),
                         .first_tile = tiles_,
                         .first_cost = cost_,
                         .unit_cost = rows + kReading});
      at += kernels.padded_rows(rows);
      tiles_ += kernels.tiles(rows);
      cost_ += units() * groups_.back().unit_cost;
    }
  }

  std::int64_t tiles() const { return tiles_; }

  // peaks: a row of them for each of x, or nullptr.
  template <class A>
  void lay_out(const A* x, const std::int32_t* peaks, std::int64_t part, std::int64_t parts) const {
    const ColumnSlice& read = w_.slice;
    const std::int64_t peak_stride = packed_blocks(read.whole);
    const std::int64_t begin = border(tiles_, part, parts);
    const std::int64_t end = border(tiles_, part + 1, parts);
    for (const Group& g : groups_) {
      const std::int64_t count = kernels_.tiles(g.rows);
      const Range tiles{std::clamp<std::int64_t>(begin - g.first_tile, 0, count),
                        std::clamp<std::int64_t>(end - g.first_tile, 0, count)};
      const PackedSource<A> source{
          .x = x + g.row * read.count,
          .rows = g.rows,
          .columns = read.count,
          .before = read.before(),
          .all = w_.columns,
          .peaks =
              peaks == nullptr ? nullptr : peaks + g.row * peak_stride + read.begin / kPackedBlock,
          .peak_stride = peak_stride};
      if constexpr (std::is_same_v<A, float>) {
        kernels_.rows_of_f32(source, g.laid_out, tiles);
      } else {
        kernels_.rows_of_bf16(source, g.laid_out, tiles);
      }
    }
  }

  template <class C>
  void multiply(C* y, std::int64_t part, std::int64_t parts) const {
    const std::int64_t begin = border(cost_, part, parts);
    const std::int64_t end = border(cost_, part + 1, parts);
    for (const Group& g : groups_) {
      const auto panel_at = [&](std::int64_t place) {
        const std::int64_t unit =
            packed_parts(std::max<std::int64_t>(place - g.first_cost, 0), g.unit_cost);
        return std::min(unit * kPackedPanels, panels_);
      };
      const std::int64_t first = panel_at(begin);
      const std::int64_t last = panel_at(end);
      if (first < last) {
        multiply_panels(g, {first, last}, y);
      }
    }
  }

 private:
  std::int64_t units() const { return packed_parts(panels_, kPackedPanels); }

  template <class C>
  void multiply_panels(const Group& g, Range panels, C* y) const {
    const std::int64_t column = panels.begin * kPackedRows;
    const PackedProduct<C> product{
        .x = g.laid_out,
        .rows = g.rows,
        .columns = w_.columns,
        .w = g.w + panels.begin * packed_panel_bytes(w_.format, w_.columns),
        .panels = panels.end - panels.begin,
        .y = y + g.row * w_.rows + column,
        .ldy = w_.rows,
        .n = std::min(panels.end * kPackedRows, w_.rows) - column};
    const bool decodes = w_.format == DType::kInt4;
    void* const scratch = decodes ? thread_scratch(packed_scratch(w_.columns)) : nullptr;
    if constexpr (std::is_same_v<C, float>) {
      kernels_.to_f32(product, scratch);
    } else {
      kernels_.to_bf16(product, scratch);
    }
  }

  const PackedKernels& kernels_;
  const PackedWeights& w_;
  std::int64_t panels_;  // of a group
  std::shared_ptr<void> memory_;
  std::vector<Group> groups_;
  std::int64_t tiles_ = 0, cost_ = 0;  // of all groups
};

template <class A, class C>
void run(const Shares& shares, const A* x, const std::int32_t* peaks, C* y, int threads) {
  const bool alone = shares.tiles() <= kTilesAlone;
  if (alone) {
    shares.lay_out(x, peaks, 0, 1);
  }
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    if (!alone) {
#pragma omp for schedule(static, 1)
      for (int t = 0; t < threads; ++t) {
        shares.lay_out(x, peaks, t, threads);
      }
    }
#pragma omp for schedule(static, 1) nowait
    for (int t = 0; t < threads; ++t) {
      shares.multiply(y, t, threads);
    }
  }
}

const PackedKernels& kernels_of(const InstructionSet& set, DType format) {
  return format == DType::kBf16   ? *set.packed_bf16
         : format == DType::kInt8 ? *set.packed_int8
                                  : *set.packed_int4;
}

// Calls work with a tensor's numbers.
template <class Work>
void with_numbers(const Tensor& tensor, const Work& work) {
  if (tensor.dtype() == DType::kF32) {
    work(tensor.as<float>().data());
  } else {
    work(tensor.as<BFloat16>().data());
  }
}

}  // namespace

void packed_matmul(const InstructionSet& set, int threads, const Tensor& x, const Tensor& offsets,
                   const PackedWeights& w, const Tensor& y, const Tensor& peaks,
                   MemoryPool& memory_pool) {
  const std::vector<std::int64_t> ends = group_offsets(offsets, w.groups, x.dim(0));
  check_packed_product(x, offsets, w, y, peaks);
  const std::int32_t* const known = peaks.defined() ? peaks.as<std::int32_t>().data() : nullptr;
  const Shares shares(kernels_of(set, w.format), ends, w, memory_pool);
  with_numbers(x, [&](const auto* rows) {
    with_numbers(y, [&](auto* results) { run(shares, rows, known, results, threads); });
  });
}

}  // namespace moesaic::cpu
