#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "model/context.h"

// How the ranks of cp share a micro-batch: each has some of its rows, in chunks (zigzag;
// data/context_chunks.h), and computes all of them but attention alone. Keys and values go from
// rank to rank in order of position, to attention that goes on from chunk to chunk: forward gives
// the bits of one rank. One rank has all rows, and nothing is sent.
namespace moesaic::model {

/// The chunks of a micro-batch, and this rank's rows.
std::shared_ptr<const ContextShare> share_context(const Context& ctx,
                                                  const data::MicroBatch& batch);

/// What the rows of this rank see, at most `window` keys, their own included; 0: no limit.
SeenKeys seen_keys(const Context& ctx, std::int64_t window);
/// The same, made once for each micro-batch.
const SeenKeys& keys_in(Context& ctx, std::int64_t window);

/// Where some of this rank's rows lie among those of the whole micro-batch.
std::vector<Slice> in_whole(const Context& ctx, Slice own);

/// Collective over cp: the values of all rows of the micro-batch, in order, from those of this
/// rank's rows, `width` of each.
template <class T>
std::vector<T> of_all_rows(const Context& ctx, std::vector<T> own, std::int64_t width);

/// Collective over cp: all rows of the micro-batch, in order, from those of this rank. (T of this
/// rank, W) -> (T of all, W), any dtype.
Tensor whole_rows(Context& ctx, const Tensor& own);
/// Some rows of x (T, W), one slice after the other.
Tensor picked_rows(Context& ctx, const Tensor& x, const std::vector<Slice>& rows);

/// Collective over cp: attention of this rank's rows of qkv (T, width) to the keys of all rows of
/// the micro-batch that they see. out (T, H, vd) compute, lse (T, H) fp32.
void attend_to_context(Context& ctx, const Tensor& qkv, const AttentionShape& shape,
                       std::int64_t window, const Tensor& out, const Tensor& lse);
/// Collective over cp. dqkv (T, width) compute. Sums over ranks are in their order.
void attend_to_context_backward(Context& ctx, const Tensor& dout, const Tensor& qkv,
                                const AttentionShape& shape, std::int64_t window, const Tensor& out,
                                const Tensor& lse, const Tensor& dqkv);

}  // namespace moesaic::model
