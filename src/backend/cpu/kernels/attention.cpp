// Attention in tiles with an online softmax (FlashAttention, Dao et al. 2022, algorithms 1 and 4).
// Forward, for a tile of keys:  S = scale Q K^T,  m' = max(m, rowmax S),  P = exp(S - m'),
//   l = l exp(m - m') + rowsum P,  O = O exp(m - m') + P V;  at the end O / l and lse = m + log l.
// Backward:  P = exp(S - lse),  dV += P^T dO,  dS = scale P (dO V^T - rowsum(dO O)),
//   dQ += dS K,  dK += dS^T Q.  The scale is in the tiles of Q and K, not in S and dS.
#include "backend/cpu/kernels/families.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

constexpr Index kTile = 64;
constexpr float kMasked = -1e30F;

// c (M, 16 N) += a (M, depth) b (depth, 16 N); a has any strides, b and c rows of ldb, ldc.
template <int M, int N>
inline void multiply_block(const float* a, Index a_row, Index a_col, const float* b, Index ldb,
                           float* c, Index ldc, Index depth) {
  F16 sums[M][N];
  for (int i = 0; i < M; ++i) {
    for (int j = 0; j < N; ++j) {
      sums[i][j] = load(c + i * ldc + j * kLanes);
    }
  }
  for (Index k = 0; k < depth; ++k, b += ldb, a += a_col) {
    for (int i = 0; i < M; ++i) {
      const F16 factor = splat(a[i * a_row]);
      for (int j = 0; j < N; ++j) {
        sums[i][j] += factor * load(b + j * kLanes);
      }
    }
  }
  for (int i = 0; i < M; ++i) {
    for (int j = 0; j < N; ++j) {
      store(c + i * ldc + j * kLanes, sums[i][j]);
    }
  }
}

template <int M>
inline void multiply_rows(const float* a, Index a_row, Index a_col, const float* b, Index ldb,
                          float* c, Index ldc, Index columns, Index depth) {
  Index j = 0;
  for (; j + 4 * kLanes <= columns; j += 4 * kLanes) {
    multiply_block<M, 4>(a, a_row, a_col, b + j, ldb, c + j, ldc, depth);
  }
  for (; j + 2 * kLanes <= columns; j += 2 * kLanes) {
    multiply_block<M, 2>(a, a_row, a_col, b + j, ldb, c + j, ldc, depth);
  }
  for (; j < columns; j += kLanes) {
    multiply_block<M, 1>(a, a_row, a_col, b + j, ldb, c + j, ldc, depth);
  }
}

// c (rows, columns) += a b; columns is a multiple of 16.
void multiply(const float* a, Index a_row, Index a_col, const float* b, Index ldb, float* c,
              Index ldc, Index rows, Index columns, Index depth) {
  Index i = 0;
  for (; i + 6 <= rows; i += 6) {
    multiply_rows<6>(a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc, columns, depth);
  }
  for (; i + 4 <= rows; i += 4) {
    multiply_rows<4>(a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc, columns, depth);
  }
  for (; i < rows; ++i) {
    multiply_rows<1>(a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc, columns, depth);
  }
}

void clear(float* p, Index n) { std::memset(p, 0, static_cast<std::size_t>(n) * sizeof(float)); }

// Rows of a head as floats times a factor, padded with zeros to `padded` columns.
template <class A>
void load_rows(const A* from, Index stride, float factor, float* to, Index rows, Index dim,
               Index padded) {
  for (Index t = 0; t < rows; ++t) {
    for (Index i = 0; i < padded; i += kLanes) {
      store(to + t * padded + i, load(from + t * stride + i, dim - i) * factor);
    }
  }
}

// Likewise transposed, (padded, kTile), with zeros for the missing rows.
template <class A>
void load_columns(const A* from, Index stride, float* to, Index rows, Index dim) {
  for (Index i = 0; i < dim; i += kLanes) {
    for (Index t = 0; t < kTile; t += kLanes) {
      U16 block[kLanes];
      for (Index j = 0; j < kLanes; ++j) {
        block[j] = t + j < rows ? reinterpret_cast<U16>(load(from + (t + j) * stride + i, dim - i))
                                : U16{};
      }
      transpose(block);
      for (Index j = 0; j < kLanes; ++j) {
        store(to + (i + j) * kTile + t, reinterpret_cast<F16>(block[j]));
      }
    }
  }
}

// Takes out the scores that causality or a document's border forbids.
void mask(float* scores, const std::int32_t* first_key, Index query, Index queries, Index key) {
  if (first_key[query + queries - 1] <= key && key + kTile - 1 <= query) {
    return;
  }
  for (Index i = 0; i < queries; ++i) {
    for (Index j = 0; j < kTile; ++j) {
      if (key + j < first_key[query + i] || key + j > query + i) {
        scores[i * kTile + j] = kMasked;
      }
    }
  }
}

// One row of the online softmax: scores become P; returns the factor for what was summed before.
float update_softmax(float* scores, float& top, float& total) {
  F16 best = splat(top);
  for (Index j = 0; j < kTile; j += kLanes) {
    best = max(best, load(scores + j));
  }
  const float new_top = max(best);
  F16 row_sum{};
  for (Index j = 0; j < kTile; j += kLanes) {
    const F16 p = exp(load(scores + j) - new_top);
    store(scores + j, p);
    row_sum += p;
  }
  const float factor = exp(top - new_top);
  total = total * factor + sum(row_sum);
  top = new_top;
  return factor;
}

}  // namespace

template <class A>
void attention(const AttentionHead<A>& head, Index begin, Index end, A* out, Index out_stride,
               float* lse, Index lse_stride, float* scratch) {
  const Index dim = head.head_dim;
  const Index padded = round_up(dim);
  float* scores = scratch;
  float* q = scores + kTile * kTile;
  float* k = q + kTile * padded;
  float* v = k + kTile * padded;
  float* sums = v + kTile * padded;
  float top[kTile];
  float total[kTile];
  for (Index query = begin; query < end; query += kTile) {
    const Index queries = smaller(kTile, end - query);
    load_rows(head.q + query * head.stride, head.stride, head.scale, q, queries, dim, padded);
    clear(sums, queries * padded);
    for (Index i = 0; i < queries; ++i) {
      top[i] = kMasked;
      total[i] = 0.0F;
    }
    const Index first = head.first_key[query] / kTile * kTile;
    for (Index key = first; key < query + queries; key += kTile) {
      const Index keys = smaller(kTile, head.tokens - key);
      load_columns(head.k + key * head.stride, head.stride, k, keys, dim);
      load_rows(head.v + key * head.stride, head.stride, 1.0F, v, keys, dim, padded);
      clear(scores, queries * kTile);
      multiply(q, padded, 1, k, kTile, scores, kTile, queries, kTile, dim);
      mask(scores, head.first_key, query, queries, key);
      for (Index i = 0; i < queries; ++i) {
        const float factor = update_softmax(scores + i * kTile, top[i], total[i]);
        for (Index c = 0; c < padded; c += kLanes) {
          store(sums + i * padded + c, load(sums + i * padded + c) * factor);
        }
      }
      multiply(scores, kTile, 1, v, padded, sums, padded, queries, padded, keys);
    }
    for (Index i = 0; i < queries; ++i) {
      const float inverse = 1.0F / total[i];
      for (Index c = 0; c < dim; c += kLanes) {
        store(out + (query + i) * out_stride + c, load(sums + i * padded + c) * inverse, dim - c);
      }
      lse[(query + i) * lse_stride] = top[i] + __builtin_logf(total[i]);
    }
  }
}
template void attention(const AttentionHead<float>&, Index, Index, float*, Index, float*, Index,
                        float*);
template void attention(const AttentionHead<BFloat16>&, Index, Index, BFloat16*, Index, float*,
                        Index, float*);

namespace {

// The tiles of one step of the backward pass, cut from the scratch memory.
struct BackwardTiles {
  float *p, *ds, *q, *dout, *k, *k_columns, *v_columns, *delta, *dq;
};

BackwardTiles cut(float* scratch, Index padded, Index tokens) {
  BackwardTiles t{};
  t.p = scratch;
  t.ds = t.p + kTile * kTile;
  t.q = t.ds + kTile * kTile;
  t.dout = t.q + kTile * padded;
  t.k = t.dout + kTile * padded;
  t.k_columns = t.k + kTile * padded;
  t.v_columns = t.k_columns + kTile * padded;
  t.dq = t.v_columns + kTile * padded;
  t.delta = t.dq + tokens * padded;
  return t;
}

// P and dS of one tile from the scores in p and dO V^T in ds; the scale of dS is in Q and K.
void softmax_backward(const BackwardTiles& t, const float* lse, Index lse_stride, Index query,
                      Index queries) {
  for (Index i = 0; i < queries; ++i) {
    const float row_lse = lse[(query + i) * lse_stride];
    const float delta = t.delta[query + i];
    for (Index j = 0; j < kTile; j += kLanes) {
      float* p = t.p + i * kTile + j;
      float* ds = t.ds + i * kTile + j;
      const F16 probability = exp(load(p) - row_lse);
      store(p, probability);
      store(ds, probability * (load(ds) - delta));
    }
  }
}

}  // namespace

template <class A>
void attention_backward(const AttentionHead<A>& head, const A* dout, const A* out, Index out_stride,
                        const float* lse, Index lse_stride, A* dq, float* dk, float* dv,
                        float* scratch) {
  const Index dim = head.head_dim;
  const Index padded = round_up(dim);
  const Index tokens = head.tokens;
  const BackwardTiles t = cut(scratch, padded, tokens);
  clear(t.dq, tokens * padded);
  for (Index i = 0; i < tokens; ++i) {
    F16 dot{};
    for (Index c = 0; c < dim; c += kLanes) {
      dot += load(dout + i * out_stride + c, dim - c) * load(out + i * out_stride + c, dim - c);
    }
    t.delta[i] = sum(dot);
  }
  for (Index key = 0; key < tokens; key += kTile) {
    const Index keys = smaller(kTile, tokens - key);
    load_rows(head.k + key * head.stride, head.stride, head.scale, t.k, keys, dim, padded);
    load_columns(head.k + key * head.stride, head.stride, t.k_columns, keys, dim);
    load_columns(head.v + key * head.stride, head.stride, t.v_columns, keys, dim);
    for (Index query = key; query < tokens && head.first_key[query] < key + keys; query += kTile) {
      const Index queries = smaller(kTile, tokens - query);
      load_rows(head.q + query * head.stride, head.stride, head.scale, t.q, queries, dim, padded);
      load_rows(dout + query * out_stride, out_stride, 1.0F, t.dout, queries, dim, padded);
      clear(t.p, queries * kTile);
      clear(t.ds, queries * kTile);
      multiply(t.q, padded, 1, t.k_columns, kTile, t.p, kTile, queries, kTile, dim);
      multiply(t.dout, padded, 1, t.v_columns, kTile, t.ds, kTile, queries, kTile, dim);
      mask(t.p, head.first_key, query, queries, key);
      softmax_backward(t, lse, lse_stride, query, queries);
      multiply(t.p, 1, kTile, t.dout, padded, dv + key * padded, padded, keys, padded, queries);
      multiply(t.ds, 1, kTile, t.q, padded, dk + key * padded, padded, keys, padded, queries);
      multiply(t.ds, kTile, 1, t.k, padded, t.dq + query * padded, padded, queries, padded, keys);
    }
  }
  for (Index i = 0; i < tokens; ++i) {
    for (Index c = 0; c < dim; c += kLanes) {
      store(dq + i * head.stride + c, load(t.dq + i * padded + c), dim - c);
    }
  }
}
template void attention_backward(const AttentionHead<float>&, const float*, const float*, Index,
                                 const float*, Index, float*, float*, float*, float*);
template void attention_backward(const AttentionHead<BFloat16>&, const BFloat16*, const BFloat16*,
                                 Index, const float*, Index, BFloat16*, float*, float*, float*);

}  // namespace moesaic::cpu::MOESAIC_ISA
