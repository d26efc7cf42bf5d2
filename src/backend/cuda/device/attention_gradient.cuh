#pragma once

#include "backend/cuda/device/attention_call.cuh"

// Backward of attention in tiles (FlashAttention, Dao et al. 2022, algorithm 4), with the lse of
// the forward pass:  S = Q K^T,  P = exp(scale S - lse),  dV = P^T dO,
//   dS = scale P (dO V^T - rowsum(dO O)),  dQ = dS K,  dK = dS^T Q.
// One kernel has the tiles of dK and dV, another those of dQ: no sum is shared by blocks, so the
// order of all of them is fixed.
namespace moesaic::cuda {

constexpr int kGradientTile = 64;  // queries, or keys

/// Where the rows of a gradient go: written, or (fp32) added to.
template <class T>
struct GradientTarget {
  T* to;       // null: adds
  float* sum;  // null: writes
  std::int64_t row_step, head_step;
  bool pairs;  // elements 2i and 2i + 1 of a row lie in one word

  __device__ std::int64_t place_of(std::int64_t row, std::int64_t head, int column) const {
    return row * row_step + head * head_step + column;
  }
  __device__ void write(std::int64_t at, float value) const {
    if (sum != nullptr) {
      sum[at] += value;
    } else {
      store(to + at, value);
    }
  }
};
/// Elements `at` and `at` + 1, the first an even one of a row; of these, `count` exist.
__device__ __forceinline__ void write_pair(const GradientTarget<BFloat16>& target, std::int64_t at,
                                           int count, float low, float high) {
  if (target.pairs && count > 1) {
    if (target.sum != nullptr) {
      float2& sum = *reinterpret_cast<float2*>(target.sum + at);
      sum = make_float2(sum.x + low, sum.y + high);
    } else {
      *reinterpret_cast<std::uint32_t*>(target.to + at) = pack_bf16(low, high);
    }
    return;
  }
  target.write(at, low);
  if (count > 1) {
    target.write(at + 1, high);
  }
}

/// What is known of a row of a query head: base = lse log2(e), inf where it sees nothing.
struct RowFacts {
  float base, delta;
};

template <class T>
struct GradientCall {
  AttentionCall<T> of;
  HeadView<const T> dout;
  const RowFacts* facts;  // (T, H)
  const int4* seen;       // of each tile of queries: least and most first, least and most last
  GradientTarget<T> dq, dk, dv;

  __device__ int query_tiles() const { return (of.rows + kGradientTile - 1) / kGradientTile; }
  __device__ Seen seen_by_tile(int tile) const {
    const int4 s = seen[tile];
    return {s.x, s.y, s.z, s.w};
  }
};

/// The queries of a tile, for scores with any keys.
struct TileFacts {
  float base[kGradientTile], delta[kGradientTile];
  int first[kGradientTile], last[kGradientTile];
};

/// By all threads of the block; what is beyond the rows sees nothing.
template <class T>
__device__ void load_facts(const GradientCall<T>& call, int tile, int head, int count,
                           TileFacts& facts) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= count) {
    return;
  }
  const int row = tile * count + thread;
  const bool valid = row < call.of.rows;
  RowFacts of{INFINITY, 0.0F};
  if (valid) {
    of = call.facts[static_cast<std::int64_t>(row) * call.of.heads + head];
  }
  facts.base[thread] = of.base;
  facts.delta[thread] = of.delta;
  facts.first[thread] = valid ? call.of.first[row] : 0;
  facts.last[thread] = valid ? min(call.of.last[row], call.of.keys_end) : 0;
}

/// P and dS of a score and its dP.
struct Weights {
  float p, ds;
};
__device__ __forceinline__ Weights weights_of(float p, float dp, float delta, float scale) {
  return {p, p * ((dp - delta) * scale)};
}

/// The next tile of queries from `tile` on of which some sees keys [key, key + keys); beyond the
/// last: none. Every lane gets it.
template <class T>
__device__ int next_tile(const GradientCall<T>& call, int tile, int key, int keys) {
  const int tiles = call.query_tiles();
  for (int base = tile; base < tiles; base += kWarp) {
    const int own = base + lane_index();
    const bool meets = own < tiles && call.seen_by_tile(own).meets(key, keys);
    const unsigned votes = __ballot_sync(kAllLanes, meets);
    if (votes != 0) {
      return base + __ffs(static_cast<int>(votes)) - 1;
    }
  }
  return tiles;
}

/// Neighbouring rows that a kernel multiplies: keys and values, or queries and dout.
template <class T>
struct Rows {
  const T *a, *b;  // as wide as heads of queries, and of values
  std::int64_t a_step, b_step;
  int count;  // from the first on
  bool a_vectors, b_vectors;
};
template <class T>
__device__ Rows<T> key_rows(const AttentionCall<T>& call, int first, int kv_head, int most) {
  return {call.k.at(first, kv_head),
          call.v.at(first, kv_head),
          call.k.row_step,
          call.v.row_step,
          min(most, call.keys_end - call.keys_begin - first),
          call.k.vectors,
          call.v.vectors};
}
template <class T>
__device__ Rows<T> query_rows(const GradientCall<T>& call, int first, int head, int most) {
  return {call.of.q.at(first, head), call.dout.at(first, head),       call.of.q.row_step,
          call.dout.row_step,        min(most, call.of.rows - first), call.of.q.vectors,
          call.dout.vectors};
}

}  // namespace moesaic::cuda
