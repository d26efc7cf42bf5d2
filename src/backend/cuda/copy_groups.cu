// Groups of one matrix's rows to those of another's.
#include "backend/cuda/choices.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/groups.cuh"
#include "backend/cuda/device/rows.cuh"

namespace moesaic::cuda {
namespace {

// A warp has a span of a row's elements, counted over its groups. Vectors lie within a group.
template <bool kVectors, class A, class B>
__global__ void __launch_bounds__(kRowThreads)
    copy_spans(const A* from, ColumnGroups source, B* to, ColumnGroups target, bool add,
               std::int64_t rows) {
  using Team = RowTeam<kWarp, 1, kVectors>;
  const std::int64_t t = Team::team();
  const int element = static_cast<int>(blockIdx.y) * Team::kSpan + Team::column(0);
  if (t >= rows || element >= source.groups * source.width) {
    return;
  }
  if constexpr (kVectors) {
    const int g = element / source.width;
    const int i = element % source.width;
    B* const out = to + target.at(t, g) + i;
    float v[kVector];
    load_vector(from + source.at(t, g) + i, v);
    if (add) {
      float sum[kVector];
      load_vector(out, sum);
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        v[j] += sum[j];
      }
    }
    store_vector(out, v);
  } else {
    const int end = min(element + kVector, source.groups * source.width);
    for (int e = element; e < end; ++e) {
      const int g = e / source.width;
      const int i = e % source.width;
      B* const out = to + target.at(t, g) + i;
      const float v = load(from + source.at(t, g) + i);
      store(out, add ? v + load(out) : v);
    }
  }
}

// All groups of a row are added to one, in order. A warp has a span of its columns.
template <bool kVectors, class A, class B>
__global__ void __launch_bounds__(kRowThreads)
    sum_groups(const A* from, ColumnGroups source, B* to, ColumnGroups target, std::int64_t rows) {
  using Team = RowTeam<kWarp, 1, kVectors>;
  const std::int64_t t = Team::team();
  if (t >= rows) {
    return;
  }
  const int column = static_cast<int>(blockIdx.y) * Team::kSpan;
  const int width = source.width - column;
  B* const out = to + target.at(t, 0) + column;
  typename Team::Values total;
  Team::load(out, width, total);
#pragma unroll 4
  for (int g = 0; g < source.groups; ++g) {
    typename Team::Values v;
    Team::load(from + source.at(t, g) + column, width, v);
    Team::each([&](int c, int j) { total[c][j] += v[c][j]; });
  }
  Team::store(out, width, total);
}

template <class A, class B>
void launch_groups(cudaStream_t stream, const A* from, ColumnGroups source, B* to,
                   ColumnGroups target, Write write, std::int64_t rows) {
  const bool one_target = target.stride == 0 && target.groups > 1;
  if (one_target && write == Write::kOverwrite) {  // the last one stays
    source.first += (source.groups - 1) * source.stride;
    source.groups = 1;
    target.groups = 1;
  }
  const bool aligned = groups_take_vectors(source, from) && groups_take_vectors(target, to);
  with_flag(aligned, [&](auto vectors) {
    using Team = RowTeam<kWarp, 1, vectors()>;
    if (one_target && write == Write::kAdd) {
      launch(stream, sum_groups<vectors(), A, B>, blocks_of<Team>(rows, source.width), kRowThreads,
             0, from, source, to, target, rows);
    } else {
      launch(stream, copy_spans<vectors(), A, B>,
             blocks_of<Team>(rows, std::int64_t{source.groups} * source.width), kRowThreads, 0,
             from, source, to, target, write == Write::kAdd, rows);
    }
  });
}

}  // namespace

void CudaBackend::copy_groups(const Tensor& from, const RowGroups& source, const Tensor& to,
                              const RowGroups& target, Write write) {
  require(
      source.groups == target.groups && source.width == target.width && from.dim(0) == to.dim(0),
      "copy_groups of other sizes");
  with_type(from.dtype(), [&](auto from_type) {
    with_type(to.dtype(), [&](auto to_type) {
      using A = decltype(from_type);
      using B = decltype(to_type);
      launch_groups<A, B>(stream(), device<A>(from), groups_of(from, source), device<B>(to),
                          groups_of(to, target), write, from.dim(0));
    });
  });
}

}  // namespace moesaic::cuda
