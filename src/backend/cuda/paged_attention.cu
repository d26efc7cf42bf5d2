#include <algorithm>

#include "backend/cuda/attention_forms.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/attention_rows.cuh"
#include "backend/cuda/device/attention_simt.cuh"

// Attention to keys in pages. A page is a tile of keys; the queries of a tile are those of all
// heads that read the same keys, of neighbouring rows (Kwon et al. 2023). Keys are summed in parts
// of 1024 from fixed positions of a sequence, which are joined in order (Flash-Decoding, Dao et al.
// 2023): whether blocks share them changes no bit.
namespace moesaic::cuda {
namespace {

constexpr int kPartKeys = 16 * kTileKeys;
static_assert(kPageTokens == kTileKeys);

// Runs on the device.
struct RunTables {
  const std::int32_t *offsets, *position, *page_offsets, *pages;
  int runs;
};

// The last run that begins at `row` or before; tables hold at least one run.
__device__ int run_of(const RunTables& tables, int row) {
  int run = 0;
  for (int end = tables.runs; end - run > 1;) {
    const int middle = (run + end) / 2;
    const bool begins = tables.offsets[middle] <= row;
    run = begins ? middle : run;
    end = begins ? end : middle;
  }
  return run;
}

struct PagedCall {
  RunTables tables;
  std::int64_t k_page, v_page;  // elements
  int first_part;
  bool apart;  // the sums of each part have a place of their own
};

// Tiles of a run begin at this number. There are enough numbers for its tiles, as
// ceil(n / rows) <= floor((a + n) / rows) - floor(a / rows) + 1.
__device__ std::int64_t first_tile_of(const RunTables& tables, int run, int group, int rows) {
  return static_cast<std::int64_t>(tables.offsets[run]) * group / rows + run;
}
std::int64_t tile_numbers(std::int64_t rows, std::int64_t group, std::int64_t runs,
                          std::int64_t tile_rows) {
  return rows * group / tile_rows + runs;
}

// The tile of a number, perhaps an empty one, and its run.
struct PagedTile {
  QueryTile queries;
  int run;
};
__device__ PagedTile tile_of(const RunTables& tables, int group, int rows, int kv_head) {
  const auto number = static_cast<std::int64_t>(blockIdx.x);
  int run = 0;
  for (int end = tables.runs; end - run > 1;) {
    const int middle = (run + end) / 2;
    const bool begins = first_tile_of(tables, middle, group, rows) <= number;
    run = begins ? middle : run;
    end = begins ? end : middle;
  }
  const int row = tables.offsets[run];
  const std::int64_t begin = (number - first_tile_of(tables, run, group, rows)) * rows;
  const std::int64_t queries = static_cast<std::int64_t>(tables.offsets[run + 1] - row) * group;
  const auto count = static_cast<int>(
      max(min(queries - begin, static_cast<std::int64_t>(rows)), static_cast<std::int64_t>(0)));
  return {{row, kv_head * group, static_cast<int>(begin), count, group}, run};
}

template <class T>
__device__ PageKeys<T> page_keys(const AttentionCall<T>& call, const PagedCall& paged, int run,
                                 int kv_head) {
  return {.k = call.k.at(0, kv_head),
          .v = call.v.at(0, kv_head),
          .k_page = paged.k_page,
          .v_page = paged.v_page,
          .k_step = static_cast<int>(call.k.row_step),
          .v_step = static_cast<int>(call.v.row_step),
          .pages = paged.tables.pages + paged.tables.page_offsets[run],
          .k_vectors = call.k.vectors,
          .v_vectors = call.v.vectors};
}

// Calls work(keys, first key, seen) with the part of the keys that this launch has of them, if the
// queries see some. Returns whether the tile's sums are wanted.
template <class T, class Work>
__device__ bool for_part(AttentionCall<T>& call, const PagedCall& paged, const PagedTile& tile,
                         int kv_head, int part, int tile_rows, int* first, const Work& work) {
  call.keys_begin = part * kPartKeys;
  call.keys_end = call.keys_begin + kPartKeys;
  load_ranges(call, tile.queries, 0, tile.queries.count, first, first + tile_rows, tile_rows);
  __syncthreads();
  const Seen seen = seen_by(first, first + tile_rows, tile_rows);
  if (seen.least_first < seen.most_last) {
    work(page_keys(call, paged, tile.run, kv_head), first_of_tile(seen.least_first, 0), seen);
    return true;
  }
  return part == 0;
}

// Places of the sums of a part.
template <class T>
__device__ std::int64_t place_of_part(const AttentionCall<T>& call, const PagedCall& paged,
                                      int part) {
  return paged.apart ? static_cast<std::int64_t>(part) * call.rows * call.heads : 0;
}

template <class F>
__global__ void __launch_bounds__(F::kThreads, F::kLeastBlocks)
    attend_pages(AttentionCall<BFloat16> call, PagedCall paged, MmaLayout layout) {
  const MmaShared s{&shared<std::byte>(), layout};
  const int kv_head = static_cast<int>(blockIdx.y);
  const int part = paged.first_part + static_cast<int>(blockIdx.z);
  const PagedTile tile = tile_of(paged.tables, call.group, F::kRows, kv_head);
  if (tile.queries.count == 0) {
    return;
  }
  const float scale_log2 = call.scale * kLog2E;
  MmaRows<F> rows;
  rows.clear();
  const bool wanted =
      for_part(call, paged, tile, kv_head, part, F::kRows, s.first(),
               [&](const PageKeys<BFloat16>& keys, int key, const Seen& seen) {
                 copy_queries<F>(call, tile.queries, s);
                 attend_tiles<F>(s, keys, call.head_dim, call.v_dim, scale_log2, key, seen, rows);
               });
  if (!wanted) {
    return;
  }
  if (call.to.adds) {
    join_rows(call, tile.queries, scale_log2, rows);
  }
  hand_over(call, tile.queries, place_of_part(call, paged, part), rows);
}

template <class T>
__global__ void __launch_bounds__(kSimtThreads, 3)
    attend_pages_simt(AttentionCall<T> call, PagedCall paged) {
  auto& s = shared<SimtShared>();
  const int kv_heads = call.heads / call.group;
  const int kv_head = static_cast<int>(blockIdx.z) % kv_heads;
  const int part = paged.first_part + static_cast<int>(blockIdx.z) / kv_heads;
  const PagedTile tile = tile_of(paged.tables, call.group, kSimtRows, kv_head);
  if (tile.queries.count == 0) {
    return;
  }
  const float scale_log2 = call.scale * kLog2E;
  SimtColumns columns;
  clear(s, columns);
  const bool wanted =
      for_part(call, paged, tile, kv_head, part, kSimtRows, s.ranges,
               [&](const PageKeys<T>& keys, int key, const Seen& seen) {
                 attend_tiles(call, tile.queries, keys, scale_log2, key, seen, s, columns);
               });
  if (!wanted) {
    return;
  }
  if (call.to.adds) {
    join_rows(call, tile.queries, scale_log2, s, columns);
  }
  hand_over(call, tile.queries, place_of_part(call, paged, part), s, columns);
}

// The parts that a row sees, joined in order: a warp takes a row of (T, H).
constexpr int kJoinThreads = 128;
template <class T>
__global__ void __launch_bounds__(kJoinThreads)
    join_parts(AttentionCall<T> call, std::int64_t places) {
  const std::int64_t place =
      static_cast<std::int64_t>(blockIdx.x) * (kJoinThreads / kWarp) + warp_index();
  if (place >= places) {
    return;
  }
  const float scale_log2 = call.scale * kLog2E;
  const auto row = static_cast<int>(place / call.heads);
  const int first = call.first[row];
  const int last = call.last[row];
  const int begin = first < last ? first / kPartKeys : 0;
  const int end = first < last ? (last - 1) / kPartKeys + 1 : 0;
  const AttentionTarget<T>& to = call.to;
  for (int column = lane_index(); column - lane_index() < call.v_dim; column += kWarp) {
    float top = kMasked;
    float total = 0.0F;
    float value = 0.0F;
    for (int part = begin; part < end; ++part) {
      const std::int64_t at = part * places + place;
      const Joined joined = join_tops(top, to.top[at], scale_log2);
      const float more = column < call.v_dim ? to.values[at * call.v_dim + column] : 0.0F;
      top = joined.top;
      total = join_sums(total, to.total[at], joined);
      value = join_sums(value, more, joined);
    }
    if (column < call.v_dim) {
      store(to.out + place * call.v_dim + column, value * inverse_of(top, total));
    }
    if (column == 0) {
      to.lse[place] = lse_of(top, total, call.scale);
    }
  }
}

// A row's heads go to its page: a block takes some rows.
constexpr int kStoreThreads = 256;
template <class T>
__global__ void __launch_bounds__(kStoreThreads)
    store_rows(HeadView<const T> from, RunTables tables, T* pages, std::int64_t rows, int heads,
               int width) {
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const int run = run_of(tables, static_cast<int>(row));
    const int position = tables.position[run] + static_cast<int>(row) - tables.offsets[run];
    const std::int64_t page = tables.pages[tables.page_offsets[run] + position / kTileKeys];
    for (int i = static_cast<int>(threadIdx.x); i < heads * width; i += kStoreThreads) {
      const int head = i / width;
      pages[((page * heads + head) * kTileKeys + position % kTileKeys) * width + i % width] =
          from.at(row, head)[i % width];
    }
  }
}

RunTables tables_of(const PagedRuns& runs) {
  return {device<std::int32_t>(runs.offsets), device<std::int32_t>(runs.position),
          device<std::int32_t>(runs.page_offsets), device<std::int32_t>(runs.pages),
          static_cast<int>(runs.position.dim(0))};
}

// Elements of a head's keys, or values, of a page; heads and rows follow.
template <class T>
HeadView<const T> page_view(const Tensor& pages) {
  return view_of<const T>(pages, pages.dim(3),
                          {0, pages.dim(1), kPageTokens * pages.dim(3), pages.dim(3)});
}

template <class T>
AttentionCall<T> call_of(const HeadRows& q, const KeyPages& keys, const VisibleKeys& visible,
                         float scale, const Tensor& out, const Tensor& lse) {
  const Tensor& values = keys.values.defined() ? keys.values : keys.keys;
  return {.q = view_of<const T>(q),
          .k = page_view<T>(keys.keys),
          .v = page_view<T>(values),
          .rows = static_cast<int>(q.rows.dim(0)),
          .heads = static_cast<int>(q.heads.groups),
          .group = static_cast<int>(q.heads.groups / keys.keys.dim(1)),
          .head_dim = static_cast<int>(q.heads.width),
          .v_dim = static_cast<int>(out.dim(2)),
          .first = device<std::int32_t>(visible.first),
          .last = device<std::int32_t>(visible.last),
          .origin = nullptr,
          .fork = nullptr,
          .jump = nullptr,
          .keys_begin = 0,
          .keys_end = kNoFork,
          .scale = scale,
          .to = result_target<T>(out, lse)};
}

// Whether blocks share the keys of a sequence: where there are too few of them else, and the sums
// of the parts are not large.
bool parts_lie_apart(const CudaBackend& backend, std::int64_t blocks, std::int64_t sums) {
  constexpr std::int64_t kMostSums = std::int64_t{64} << 20;  // floats
  return blocks < 2 * backend.sm_count() && sums <= kMostSums;
}

AttentionSums empty_sums(CudaBackend& backend, std::int64_t parts, std::int64_t rows,
                         std::int64_t heads, std::int64_t v_dim) {
  return {backend.empty(DType::kF32, {parts * rows, heads, v_dim}),
          backend.empty(DType::kF32, {parts * rows, heads}),
          backend.empty(DType::kF32, {parts * rows, heads})};
}

// Launches work(call, paged, parts of this launch) for all parts, and writes out and lse.
template <class T, class Launch>
void in_parts(CudaBackend& backend, const AttentionCall<T>& call, PagedCall paged,
              std::int64_t parts, std::int64_t blocks, const Tensor& out, const Tensor& lse,
              const Launch& work) {
  const std::int64_t places = std::int64_t{call.rows} * call.heads;
  AttentionCall<T> part_call = call;
  if (parts == 1) {
    work(call, paged, 1);
  } else if (parts_lie_apart(backend, blocks, parts * places * call.v_dim)) {
    const AttentionSums sums = empty_sums(backend, parts, call.rows, call.heads, call.v_dim);
    part_call.to = sums_target<T>(sums, false);
    paged.apart = true;
    work(part_call, paged, parts);
    part_call.to.out = device<T>(out);
    part_call.to.lse = device<float>(lse);
    launch(backend.stream(), join_parts<T>,
           dim3(static_cast<unsigned>(tiles_of(places, kJoinThreads / kWarp))), dim3(kJoinThreads),
           0, part_call, places);
  } else {
    const AttentionSums sums = empty_sums(backend, 1, call.rows, call.heads, call.v_dim);
    for (std::int64_t part = 0; part < parts; ++part) {
      part_call.to = sums_target<T>(sums, part > 0);
      const BeforeSums before = part > 0 ? copy_before(backend, part_call, sums) : BeforeSums();
      paged.first_part = static_cast<int>(part);
      work(part_call, paged, 1);
    }
    backend.attention_result(sums, call.scale, out, lse);
  }
}

template <class T>
void attend_plainly(CudaBackend& backend, const AttentionCall<T>& call, const PagedCall& paged,
                    std::int64_t parts, const Tensor& out, const Tensor& lse) {
  const std::int64_t kv_heads = call.heads / call.group;
  const std::int64_t tiles = tile_numbers(call.rows, call.group, paged.tables.runs, kSimtRows);
  in_parts(backend, call, paged, parts, tiles * kv_heads, out, lse,
           [&](const AttentionCall<T>& one, const PagedCall& of, std::int64_t count) {
             launch(backend.stream(), attend_pages_simt<T>, simt_grid(one, tiles, kv_heads * count),
                    dim3(kSimtThreads), sizeof(SimtShared), one, of);
           });
}

template <class F>
void attend_in_form(CudaBackend& backend, const AttentionCall<BFloat16>& call,
                    const PagedCall& paged, std::int64_t parts, const MmaLayout& layout,
                    const Tensor& out, const Tensor& lse) {
  const std::int64_t kv_heads = call.heads / call.group;
  const std::int64_t tiles = tile_numbers(call.rows, call.group, paged.tables.runs, F::kRows);
  in_parts(backend, call, paged, parts, tiles * kv_heads, out, lse,
           [&](const AttentionCall<BFloat16>& one, const PagedCall& of, std::int64_t count) {
             const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(kv_heads),
                             static_cast<unsigned>(count));
             launch(backend.stream(), attend_pages<F>, grid, dim3(F::kThreads),
                    static_cast<std::size_t>(layout.bytes), one, of, layout);
           });
}

void attend(CudaBackend& backend, const AttentionCall<float>& call, const PagedCall& paged,
            std::int64_t parts, bool /*own_values*/, const Tensor& out, const Tensor& lse) {
  attend_plainly(backend, call, paged, parts, out, lse);
}
void attend(CudaBackend& backend, const AttentionCall<BFloat16>& call, const PagedCall& paged,
            std::int64_t parts, bool own_values, const Tensor& out, const Tensor& lse) {
  const auto work = [&](auto form, const MmaLayout& layout) {
    attend_in_form<decltype(form)>(backend, call, paged, parts, layout, out, lse);
  };
  const bool few = std::int64_t{call.rows} * call.group <= std::int64_t{16} * paged.tables.runs;
  if (!(few && with_small_form(call.head_dim, call.v_dim, own_values, work)) &&
      !with_form(call.head_dim, call.v_dim, own_values, work)) {
    attend_plainly(backend, call, paged, parts, out, lse);
  }
}

}  // namespace

void CudaBackend::store_in_pages(const Tensor& rows, const RowGroups& groups, const PagedRuns& runs,
                                 const Tensor& pages) {
  require_runs(runs);
  require_groups(rows, groups, pages);
  with_type(rows.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(stream(), store_rows<T>, dim3(static_cast<unsigned>(rows.dim(0))), dim3(kStoreThreads),
           0, view_of<const T>({rows, groups}), tables_of(runs), device<T>(pages), rows.dim(0),
           static_cast<int>(groups.groups), static_cast<int>(groups.width));
  });
}

void CudaBackend::attention(const HeadRows& q, const KeyPages& keys, const VisibleKeys& visible,
                            float scale, const Tensor& out, const Tensor& lse) {
  require_pages(q, keys);
  if (q.rows.dim(0) == 0) {
    return;
  }
  const Tensor& values = keys.values.defined() ? keys.values : keys.keys;
  const auto page_elements = [](const Tensor& x) { return x.dim(1) * x.dim(2) * x.dim(3); };
  const PagedCall paged{.tables = tables_of(keys.runs),
                        .k_page = page_elements(keys.keys),
                        .v_page = page_elements(values),
                        .first_part = 0,
                        .apart = false};
  const std::int64_t parts = std::max<std::int64_t>(1, tiles_of(keys.runs.most_keys, kPartKeys));
  with_type(q.rows.dtype(), [&](auto type) {
    attend(*this, call_of<decltype(type)>(q, keys, visible, scale, out, lse), paged, parts,
           keys.values.defined(), out, lse);
  });
}

}  // namespace moesaic::cuda
