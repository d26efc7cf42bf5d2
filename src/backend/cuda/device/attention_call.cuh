#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/attention.h"
#include "backend/cuda/device/numbers.cuh"
#include "backend/cuda/device/warp.cuh"

// What kernels of attention are told, which queries a block has, where keys lie, and the numbers
// that all forms compute in the same way.
namespace moesaic::cuda {

constexpr int kTileKeys = static_cast<int>(kKeyTile);
constexpr float kMasked = -1e30F;  // below every score
constexpr float kLog2E = 1.44269504089F;
constexpr int kNoFork = 0x7fffffff;

/// Element i of head h of a row lies at data + row * row_step + h * head_step + i.
template <class T>
struct HeadView {
  T* data;
  std::int64_t row_step, head_step;
  bool vectors;  // every row of a head is whole vectors of 16 bytes

  __device__ T* at(std::int64_t row, std::int64_t head) const {
    return data + row * row_step + head * head_step;
  }
};

/// Where rows go: out (T, H, vd) and lse (T, H), or sums.
template <class T>
struct AttentionTarget {
  T* out = nullptr;
  float* lse = nullptr;
  float* values = nullptr;  // null: no sums
  float* top = nullptr;
  float* total = nullptr;
  const float* before_top = nullptr;  // what top and total hold, where it is wanted
  const float* before_total = nullptr;
  bool adds = false;  // to what the sums hold
};

/// One call: queries of `heads` heads, of which `group` neighbours read one head of keys.
template <class T>
struct AttentionCall {
  HeadView<const T> q, k, v;
  int rows, heads, group, head_dim, v_dim;
  const std::int32_t *first, *last, *origin, *fork, *jump;  // origin, fork: null where undefined
  int keys_begin, keys_end;
  float scale;
  AttentionTarget<T> to;
};

/// Queries of a block: those of each row after each other, from one of row `row` on.
struct QueryTile {
  int row, head;  // the first query's row, and the first head of the group
  int begin;      // the first query, counted from those of `row`
  int count, group;

  __device__ int row_of(int query) const { return row + (begin + query) / group; }
  __device__ int head_of(int query) const { return head + (begin + query) % group; }
};

/// What some queries see, all together; no query: least_first > most_last.
struct Seen {
  int least_first = 0x7fffffff, most_first = 0, least_last = 0x7fffffff, most_last = 0;

  __device__ void join(int first, int last) {
    least_first = first < last ? min(least_first, first) : least_first;
    most_first = max(most_first, first);
    least_last = min(least_last, first < last ? last : 0);
    most_last = max(most_last, first < last ? last : 0);
  }
  __device__ bool meets(int key, int keys) const {
    return least_first < key + keys && key < most_last;
  }
  __device__ bool whole(int key, int keys) const {
    return most_first <= key && key + keys <= least_last;
  }
};

/// Of all lanes; every lane gets it.
__device__ __forceinline__ Seen seen_by_warp(Seen seen) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    seen.least_first =
        min(seen.least_first, __shfl_xor_sync(kAllLanes, seen.least_first, distance));
    seen.most_first = max(seen.most_first, __shfl_xor_sync(kAllLanes, seen.most_first, distance));
    seen.least_last = min(seen.least_last, __shfl_xor_sync(kAllLanes, seen.least_last, distance));
    seen.most_last = max(seen.most_last, __shfl_xor_sync(kAllLanes, seen.most_last, distance));
  }
  return seen;
}

/// Of `count` queries whose ranges lie in shared memory; every lane gets it.
__device__ __forceinline__ Seen seen_by(const int* first, const int* last, int count) {
  Seen seen;
  for (int i = lane_index(); i < count; i += kWarp) {
    seen.join(first[i], last[i]);
  }
  return seen_by_warp(seen);
}

/// Where neighbouring rows of one origin and fork end that begin at query `begin` of the tile
/// (group 1). Every lane gets it.
template <class T>
__device__ int end_of_stretch(const AttentionCall<T>& call, const QueryTile& tile, int begin) {
  if (call.origin == nullptr && call.fork == nullptr) {
    return tile.count;
  }
  const int row = tile.row + begin;
  for (int base = begin + 1; base < tile.count; base += kWarp) {
    const int other = tile.row + base + lane_index();
    bool differs = false;
    if (base + lane_index() < tile.count) {
      differs = call.origin != nullptr && call.origin[other] != call.origin[row];
      differs = differs || (call.fork != nullptr && (call.fork[other] != call.fork[row] ||
                                                     call.jump[other] != call.jump[row]));
    }
    const unsigned votes = __ballot_sync(kAllLanes, differs);
    if (votes != 0) {
      return base + __ffs(static_cast<int>(votes)) - 1;
    }
  }
  return tile.count;
}

/// What queries [begin, end) of a tile see of the keys that are there, into shared memory; the
/// others see nothing. By all threads of the block.
template <class T>
__device__ void load_ranges(const AttentionCall<T>& call, const QueryTile& tile, int begin, int end,
                            int* first, int* last, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    int from = 0;
    int to = 0;
    if (i >= begin && i < end) {
      const int row = tile.row_of(i);
      from = max(call.first[row], call.keys_begin);
      to = min(call.last[row], call.keys_end);
    }
    first[i] = from < to ? from : 0;
    last[i] = from < to ? to : 0;
  }
}

/// Keys and values of one head in the rows of matrices.
template <class T>
struct RowKeys {
  const T *k, *v;
  std::int64_t k_step, v_step;
  int begin, fork, jump;
  bool k_vectors, v_vectors;

  __device__ std::int64_t row_of(int position) const {
    return static_cast<std::int64_t>(position) + (position >= fork ? jump : 0) - begin;
  }
  __device__ const T* key(int position) const { return k + row_of(position) * k_step; }
  __device__ const T* value(int position) const { return v + row_of(position) * v_step; }
};

/// The head of a tile's keys; `row` is one of the stretch.
template <class T>
__device__ RowKeys<T> keys_of(const AttentionCall<T>& call, int head, int row) {
  const int kv = head / call.group;
  return {.k = call.k.at(0, kv),
          .v = call.v.at(0, kv),
          .k_step = call.k.row_step,
          .v_step = call.v.row_step,
          .begin = call.keys_begin,
          .fork = call.fork != nullptr ? call.fork[row] : kNoFork,
          .jump = call.fork != nullptr ? call.jump[row] : 0,
          .k_vectors = call.k.vectors,
          .v_vectors = call.v.vectors};
}

/// Those in pages.
template <class T>
struct PageKeys {
  const T *k, *v;  // of the head, in page 0
  std::int64_t k_page, v_page;
  int k_step, v_step;
  const std::int32_t* pages;
  bool k_vectors, v_vectors;

  __device__ const T* key(int position) const {
    return k + pages[position / kTileKeys] * k_page + position % kTileKeys * k_step;
  }
  __device__ const T* value(int position) const {
    return v + pages[position / kTileKeys] * v_page + position % kTileKeys * v_step;
  }
};

/// The first key of the tile in which a key lies; tiles are counted from origin.
__device__ __forceinline__ int first_of_tile(int key, int origin) {
  return origin + (key - origin) / kTileKeys * kTileKeys;
}

// Sums of softmax. What is written here is computed in several kernels, and has to have the same
// bits in all of them: so each multiplication and addition that could be contracted says if it is.

/// What the weights of a row are counted from: without a key nothing is.
__device__ __forceinline__ float base_of(float top) { return top <= kMasked ? 0.0F : top; }

/// Sums over more keys, with their weights counted from another top.
struct Joined {
  float top, here, there;
};
__device__ __forceinline__ Joined join_tops(float top, float more, float scale_log2) {
  const float best = fmaxf(top, more);
  return {best, exp2f((top - best) * scale_log2), exp2f((more - best) * scale_log2)};
}
__device__ __forceinline__ float join_sums(float sum, float more, const Joined& joined) {
  return fmaf(sum, joined.here, more * joined.there);
}

/// The factor of a row's values, and its lse.
__device__ __forceinline__ float inverse_of(float top, float total) {
  return top <= kMasked ? 0.0F : 1.0F / total;
}
__device__ __forceinline__ float lse_of(float top, float total, float scale) {
  return top <= kMasked ? -INFINITY : fmaf(scale, top, logf(total));
}

}  // namespace moesaic::cuda
