#pragma once

#include "reference/types.h"

namespace moesaic::reference {

struct Heads {
  std::int64_t query, key_value, head_dim, v_dim;  // v_dim: of values
  double scale;
};

struct Attention {
  Vector out;  // (T, query, v_dim)
  Vector lse;  // (T, query): log-sum-exp of the scaled scores of a row
};

/// q (T, query, head_dim), k (S, key_value, head_dim), v (S, key_value, v_dim). Row t sees the keys
/// first[t] .. last[t] - 1; without any its out is 0 and its lse -inf. Query head h reads key/value
/// head h / (query / key_value).
Attention attention(View q, View k, View v, const Heads& heads, IndexView first, IndexView last);

struct AttentionGradients {
  Vector dq, dk, dv;
};
/// From dout (T, query, v_dim).
AttentionGradients attention_backward(View dout, View q, View k, View v, const Heads& heads,
                                      IndexView first, IndexView last);

/// Parts of fused rows (T, query head_dim + key_value head_dim + key_value v_dim), and rows of
/// them.
struct Parts {
  Vector q, k, v;
};
Parts split(View qkv, const Heads& heads);
Vector fuse(const Parts& parts, const Heads& heads);

/// The same for fused rows, where token t sees the keys first_key[t] .. t.
Attention attention(View qkv, const Heads& heads, IndexView first_key);
Vector attention_backward(View dout, View qkv, const Heads& heads, IndexView first_key);

}  // namespace moesaic::reference
