#include <algorithm>

#include "backend/cuda/attention_forms.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/attention_gradient_mma.cuh"
#include "backend/cuda/device/attention_gradient_simt.cuh"

namespace moesaic::cuda {
namespace {

constexpr int kWarpsOfBlock = 8;

// A warp takes a row of (T, H).
template <class T>
__global__ void __launch_bounds__(kWarpsOfBlock* kWarp)
    find_facts(const T* dout, const T* out, const float* lse, RowFacts* facts, std::int64_t places,
               int width) {
  const std::int64_t place = static_cast<std::int64_t>(blockIdx.x) * kWarpsOfBlock + warp_index();
  if (place >= places) {
    return;
  }
  float dot = 0.0F;
  for (int i = lane_index(); i < width; i += kWarp) {
    dot = fmaf(load(dout + place * width + i), load(out + place * width + i), dot);
  }
  dot = warp_sum(dot);
  if (lane_index() == 0) {
    const float sum = lse[place];
    facts[place] = {sum > kMasked ? sum * kLog2E : INFINITY, dot};
  }
}

// A warp takes a tile of queries.
template <class T>
__global__ void __launch_bounds__(kWarpsOfBlock* kWarp)
    find_seen(AttentionCall<T> call, int4* tiles, int count) {
  const int tile = static_cast<int>(blockIdx.x) * kWarpsOfBlock + warp_index();
  if (tile >= count) {
    return;
  }
  Seen own;
  for (int i = lane_index(); i < kGradientTile; i += kWarp) {
    const int row = tile * kGradientTile + i;
    const bool valid = row < call.rows;
    own.join(valid ? max(call.first[row], call.keys_begin) : 0,
             valid ? min(call.last[row], call.keys_end) : 0);
  }
  const Seen seen = seen_by_warp(own);
  if (lane_index() == 0) {
    tiles[tile] = make_int4(seen.least_first, seen.most_first, seen.least_last, seen.most_last);
  }
}

// dK and dV of a tile of keys, from the queries of all heads of a group.
template <int Tiles>
__global__ void __launch_bounds__(kGradientThreads, Tiles <= 8 ? 2 : 1)
    key_gradients(GradientCall<BFloat16> call, GradientLayout layout) {
  const AttentionCall<BFloat16>& of = call.of;
  const GradientShared s{&shared<std::byte>(), layout};
  const int first = static_cast<int>(blockIdx.x) * kGradientTile;
  const int key = of.keys_begin + first;
  const int kv_head = static_cast<int>(blockIdx.y);
  const Rows<BFloat16> keys = key_rows(of, first, kv_head, kGradientTile);
  copy_rows(keys, of.head_dim, of.v_dim, s, layout.rows_a, layout.rows_b);
  Gradient<Tiles> dk;
  Gradient<Tiles> dv;
  dk.clear();
  dv.clear();
  for (int head = kv_head * of.group; head < (kv_head + 1) * of.group; ++head) {
    for (int tile = next_tile(call, 0, key, kGradientTile); tile < call.query_tiles();
         tile = next_tile(call, tile + 1, key, kGradientTile)) {
      copy_rows(query_rows(call, tile * kGradientTile, head, kGradientTile), of.head_dim, of.v_dim,
                s, layout.columns_a, layout.columns_b);
      cp_async_commit();
      load_facts(call, tile, head, kGradientTile, s.facts());
      compute_weights<true>(s, of, key, call.seen_by_tile(tile));
      dv.add(s.at(layout.p), s.at(layout.columns_b), layout.b_row, of.v_dim);
      dk.add(s.at(layout.ds), s.at(layout.columns_a), layout.a_row, of.head_dim);
      __syncthreads();
    }
  }
  cp_async_wait<0>();
  dk.write(call.dk, first, keys.count, kv_head, of.head_dim);
  dv.write(call.dv, first, keys.count, kv_head, of.v_dim);
}

// dQ of a tile of queries; the last tiles first, as they see the most where attention is causal.
template <int Tiles>
__global__ void __launch_bounds__(kGradientThreads, Tiles <= 8 ? 2 : 1)
    query_gradients(GradientCall<BFloat16> call, GradientLayout layout) {
  const AttentionCall<BFloat16>& of = call.of;
  const GradientShared s{&shared<std::byte>(), layout};
  const int tile = static_cast<int>(gridDim.x) - 1 - static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const Rows<BFloat16> queries = query_rows(call, tile * kGradientTile, head, kGradientTile);
  copy_rows(queries, of.head_dim, of.v_dim, s, layout.rows_a, layout.rows_b);
  load_facts(call, tile, head, kGradientTile, s.facts());
  const Seen seen = call.seen_by_tile(tile);
  Gradient<Tiles> dq;
  dq.clear();
  const bool none = seen.least_first >= seen.most_last;
  for (int key = none ? seen.most_last : first_of_tile(seen.least_first, of.keys_begin);
       key < seen.most_last; key += kGradientTile) {
    copy_rows(key_rows(of, key - of.keys_begin, head / of.group, kGradientTile), of.head_dim,
              of.v_dim, s, layout.columns_a, layout.columns_b);
    cp_async_commit();
    compute_weights<false>(s, of, key, seen);
    dq.add(s.at(layout.ds), s.at(layout.columns_a), layout.a_row, of.head_dim);
    __syncthreads();
  }
  cp_async_wait<0>();
  dq.write(call.dq, tile * kGradientTile, queries.count, head, of.head_dim);
}

// The same without matrix units: blocks of dK, then those of dV.
template <class T>
__global__ void __launch_bounds__(kPlainThreads, 3)
    key_gradients_plainly(GradientCall<T> call, int blocks_of_dk) {
  auto& s = shared<PlainShared>();
  const AttentionCall<T>& of = call.of;
  const int first = static_cast<int>(blockIdx.x) * kPlainRows;
  const int key = of.keys_begin + first;
  const int kv_head = static_cast<int>(blockIdx.z);
  const auto block = static_cast<int>(blockIdx.y);
  const bool of_keys = block < blocks_of_dk;
  const Rows<T> keys = key_rows(of, first, kv_head, kPlainRows);
  PlainGradient sums;
  sums.clear();
  sums.column =
      (of_keys ? block : block - blocks_of_dk) * kPlainColumns + static_cast<int>(threadIdx.x);
  sums.dim = of_keys ? of.head_dim : of.v_dim;
  for (int head = kv_head * of.group; head < (kv_head + 1) * of.group; ++head) {
    for (int tile = next_tile(call, 0, key, kPlainRows); tile < call.query_tiles();
         tile = next_tile(call, tile + 1, key, kPlainRows)) {
      const Rows<T> queries = query_rows(call, tile * kGradientTile, head, kGradientTile);
      load_facts(call, tile, head, kGradientTile, s.facts);
      plain_weights<true>(of, keys, queries, key, of_keys, s);
      sums.add(s, of_keys ? queries.a : queries.b, of_keys ? queries.a_step : queries.b_step,
               queries.count);
      __syncthreads();
    }
  }
  sums.write(of_keys ? call.dk : call.dv, first, keys.count, kv_head);
}

template <class T>
__global__ void __launch_bounds__(kPlainThreads, 3) query_gradients_plainly(GradientCall<T> call) {
  auto& s = shared<PlainShared>();
  const AttentionCall<T>& of = call.of;
  const auto tile = static_cast<int>(blockIdx.x);
  const int first = tile * kPlainRows;
  const int head = static_cast<int>(blockIdx.z);
  const Rows<T> queries = query_rows(call, first, head, kPlainRows);
  const Seen seen = call.seen_by_tile(first / kGradientTile);
  load_facts(call, tile, head, kPlainRows, s.facts);
  PlainGradient sums;
  sums.clear();
  sums.column = static_cast<int>(blockIdx.y) * kPlainColumns + static_cast<int>(threadIdx.x);
  sums.dim = of.head_dim;
  const bool none = seen.least_first >= seen.most_last;
  for (int key = none ? seen.most_last : first_of_tile(seen.least_first, of.keys_begin);
       key < seen.most_last; key += kGradientTile) {
    const Rows<T> keys = key_rows(of, key - of.keys_begin, head / of.group, kGradientTile);
    plain_weights<false>(of, queries, keys, key, true, s);
    sums.add(s, keys.a, keys.a_step, keys.count);
    __syncthreads();
  }
  sums.write(call.dq, first, queries.count, head);
}

template <class T>
GradientTarget<T> target_of(const HeadRows& to, bool adds) {
  const RowGroups& heads = to.heads;
  const bool pairs = to.rows.dim(1) % 2 == 0 && heads.first % 2 == 0 &&
                     (heads.groups == 1 || heads.stride % 2 == 0) &&
                     reinterpret_cast<std::uintptr_t>(to.rows.data()) % 8 == 0;
  GradientTarget<T> target{nullptr, nullptr, to.rows.dim(1), heads.stride, pairs};
  if (adds) {
    target.sum = device<float>(to.rows) + heads.first;
  } else {
    target.to = device<T>(to.rows) + heads.first;
  }
  return target;
}

unsigned blocks_for(std::int64_t n, std::int64_t of_block) {
  return static_cast<unsigned>(tiles_of(n, of_block));
}

template <class T>
void compute_plainly(const CudaBackend& backend, const GradientCall<T>& call) {
  const AttentionCall<T>& of = call.of;
  const unsigned of_dk = blocks_for(of.head_dim, kPlainColumns);
  const unsigned of_dv = blocks_for(of.v_dim, kPlainColumns);
  const auto heads = static_cast<unsigned>(of.heads);
  launch(backend.stream(), key_gradients_plainly<T>,
         dim3(blocks_for(of.keys_end - of.keys_begin, kPlainRows), of_dk + of_dv,
              heads / static_cast<unsigned>(of.group)),
         dim3(kPlainThreads), sizeof(PlainShared), call, static_cast<int>(of_dk));
  launch(backend.stream(), query_gradients_plainly<T>,
         dim3(blocks_for(of.rows, kPlainRows), of_dk, heads), dim3(kPlainThreads),
         sizeof(PlainShared), call);
}

// Tiles: how many fragments of 8 columns a warp has of each gradient.
template <int Tiles>
void compute_in_tiles(const CudaBackend& backend, const GradientCall<BFloat16>& call) {
  const AttentionCall<BFloat16>& of = call.of;
  const auto heads = static_cast<unsigned>(of.heads);
  const GradientLayout layout = gradient_layout(of.head_dim, of.v_dim);
  const auto bytes = static_cast<std::size_t>(layout.bytes);
  launch(backend.stream(), key_gradients<Tiles>,
         dim3(blocks_for(of.keys_end - of.keys_begin, kGradientTile),
              heads / static_cast<unsigned>(of.group)),
         dim3(kGradientThreads), bytes, call, layout);
  launch(backend.stream(), query_gradients<Tiles>, dim3(blocks_for(of.rows, kGradientTile), heads),
         dim3(kGradientThreads), bytes, call, layout);
}

void compute(const CudaBackend& backend, const GradientCall<float>& call) {
  compute_plainly(backend, call);
}
void compute(const CudaBackend& backend, const GradientCall<BFloat16>& call) {
  const int widest = std::max(call.of.head_dim, call.of.v_dim);
  if (widest <= 128) {
    compute_in_tiles<8>(backend, call);
  } else if (widest <= 256) {
    compute_in_tiles<16>(backend, call);
  } else {
    compute_plainly(backend, call);
  }
}

}  // namespace

void CudaBackend::attention_backward(const Tensor& dout, const HeadRows& q, const KeyRows& keys,
                                     const VisibleKeys& visible, float scale, const Tensor& out,
                                     const Tensor& lse, const AttentionGradients& gradients,
                                     Write write) {
  require(!visible.fork.defined(), "a gradient through forks");
  const std::int64_t rows = q.rows.dim(0);
  const std::int64_t heads = q.heads.groups;
  const std::int64_t v_dim = keys.v.heads.width;
  const std::int64_t tiles = tiles_of(rows, kGradientTile);
  const Tensor facts = empty(DType::kF32, {rows, heads, 2});
  const Tensor seen = empty(DType::kI32, {tiles, 4});
  const bool adds = write == Write::kAdd;
  with_type(q.rows.dtype(), [&](auto type) {
    using T = decltype(type);
    const GradientCall<T> call{
        .of = call_of<T>(q, keys, visible, scale, AttentionTarget<T>()),
        .dout = view_of<const T>(dout, heads * v_dim, {0, heads, v_dim, v_dim}),
        .facts = reinterpret_cast<const RowFacts*>(facts.data()),
        .seen = reinterpret_cast<const int4*>(seen.data()),
        .dq = target_of<T>(gradients.dq, adds),
        .dk = target_of<T>(gradients.dk, adds),
        .dv = target_of<T>(gradients.dv, adds)};
    const dim3 block(kWarpsOfBlock * kWarp);
    launch(stream(), find_facts<T>, dim3(blocks_for(rows * heads, kWarpsOfBlock)), block, 0,
           device<T>(dout), device<T>(out), device<float>(lse),
           reinterpret_cast<RowFacts*>(facts.data()), rows * heads, static_cast<int>(v_dim));
    launch(stream(), find_seen<T>, dim3(blocks_for(tiles, kWarpsOfBlock)), block, 0, call.of,
           reinterpret_cast<int4*>(seen.data()), static_cast<int>(tiles));
    compute(*this, call);
  });
}

}  // namespace moesaic::cuda
