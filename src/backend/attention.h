#pragma once

#include <cstdint>

#include "tensor/tensor.h"

// What attention is told: whose queries, where keys and values lie, and which of them each query
// sees. T query rows, H query heads, Hkv key and value heads, hd and vd their widths.
namespace moesaic {

/// Groups of `width` neighbours in each row of a matrix: the first begins at column `first`, each
/// next one `stride` later.
struct RowGroups {
  std::int64_t first = 0, groups = 1, stride = 0, width = 0;
};

/// Heads in the rows of a matrix (rows, columns): one group each.
struct HeadRows {
  Tensor rows;
  RowGroups heads;
};

/// Keys are taken in tiles of so many; a row's bits depend on where its tiles begin.
constexpr std::int64_t kKeyTile = 64;

/// Keys (.., Hkv, hd) and values (.., Hkv, vd) of neighbouring positions: row i is position begin +
/// i.
struct KeyRows {
  HeadRows k, v;
  std::int64_t begin = 0;

  std::int64_t end() const { return begin + k.rows.dim(0); }
};

/// The keys that each query row sees: those at positions [first, last), an empty range being none;
/// tiles of keys are counted from origin <= first. Undefined origin: 0.
/// Where `fork` is defined, keys from position fork on lie `jump` rows after their places: a
/// context that several sequences share is followed by the own keys of each. fork - origin is a
/// multiple of kForkUnit; a row without a fork has one beyond its keys.
struct VisibleKeys {
  Tensor first, last;                        // (T) int32
  Tensor origin = {}, fork = {}, jump = {};  // (T) int32
};
constexpr std::int64_t kForkUnit = 2;  // bf16 dot products take two keys at a time

/// Softmax of query rows over some of their keys, before the division: top, the largest score q k;
/// total, the sum of exp(scale (score - top)); values, the sum of the values with these weights.
struct AttentionSums {
  Tensor values;      // (T, H, vd) fp32
  Tensor top, total;  // (T, H) fp32
};

/// Where the gradients of queries, keys and values go.
struct AttentionGradients {
  HeadRows dq, dk, dv;
};

/// Tokens of a page: a head's keys, and its values, of so many neighbours lie in a row.
constexpr std::int64_t kPageTokens = kKeyTile;

/// Rows of sequences whose keys and values lie in pages. Run i is rows [offsets[i], offsets[i +
/// 1]), neighbours in one sequence from position[i] on; pages [page_offsets[i], page_offsets[i +
/// 1]) are its sequence's from the beginning to at least the last of these rows. Position p lies in
/// page p / kPageTokens. All int32 on the device.
struct PagedRuns {
  Tensor offsets;              // (S + 1)
  Tensor position;             // (S)
  Tensor page_offsets;         // (S + 1)
  Tensor pages;                // numbers in [0, P)
  std::int64_t most_keys = 0;  // no row sees a key at this position or later
};

/// Keys (P, Hkv, kPageTokens, hd) and values (P, Hkv, kPageTokens, vd) in P pages. Undefined
/// values: they are the first vd elements of the keys.
struct KeyPages {
  Tensor keys, values;
  PagedRuns runs;
};

/// Heads of one fused tensor (T, H hd + Hkv hd + Hkv vd): queries, keys, values. All widths are at
/// least 1, and scale is positive.
struct AttentionShape {
  std::int64_t heads = 1, kv_heads = 1, head_dim = 1, v_dim = 1;
  float scale = 1.0F;

  std::int64_t width() const { return (heads + kv_heads) * head_dim + kv_heads * v_dim; }
  HeadRows queries(const Tensor& fused) const { return {fused, {0, heads, head_dim, head_dim}}; }
  KeyRows keys(const Tensor& fused) const {
    const std::int64_t k = heads * head_dim;
    return {{fused, {k, kv_heads, head_dim, head_dim}},
            {fused, {k + kv_heads * head_dim, kv_heads, v_dim, v_dim}}};
  }
  AttentionGradients gradients(const Tensor& fused) const {
    const KeyRows to = keys(fused);
    return {queries(fused), to.k, to.v};
  }
};

}  // namespace moesaic
