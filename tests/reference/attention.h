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
/// qkv (T, query head_dim + key_value head_dim + key_value v_dim). Token t sees the keys
/// first_key[t] .. t; query head h reads key/value head h / (query / key_value).
Attention attention(View qkv, const Heads& heads, IndexView first_key);

/// dqkv, of qkv's shape, from dout (T, query, v_dim).
Vector attention_backward(View dout, View qkv, const Heads& heads, IndexView first_key);

}  // namespace moesaic::reference
