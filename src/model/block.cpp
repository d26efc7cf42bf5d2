#include "model/block.h"

#include <utility>

#include "model/tensor_parallel.h"

namespace moesaic::model {
namespace {

Tensor sum(Context& ctx, const Tensor& x, const Tensor& y) {
  ctx.backend.add(x, y);
  return y;
}

// Calls the layer of the variant with the Saved of its own type.
Tensor ffn_forward(Context& ctx, const Block::Ffn& ffn, const Tensor& x, Block::Saved* saved) {
  return std::visit(
      [&](const auto& layer) {
        using L = std::decay_t<decltype(layer)>;
        return layer.forward(
            ctx, x, saved != nullptr ? &saved->ffn.template emplace<typename L::Saved>() : nullptr);
      },
      ffn);
}

Tensor ffn_backward(Context& ctx, const Block::Ffn& ffn, const Tensor& dy,
                    const Block::Saved& saved) {
  return std::visit(
      [&](const auto& layer) {
        using L = std::decay_t<decltype(layer)>;
        return layer.backward(ctx, dy, std::get<typename L::Saved>(saved.ffn));
      },
      ffn);
}

}  // namespace

Block::Block(RmsNorm attention_norm, Attention attention, RmsNorm ffn_norm, Ffn ffn)
    : attention_norm_(attention_norm),
      attention_(attention),
      ffn_norm_(ffn_norm),
      ffn_(std::move(ffn)) {}

Tensor Block::forward(Context& ctx, const Tensor& x, Saved* saved) const {
  const bool keep = saved != nullptr;
  const Tensor h = attention_norm_.forward(ctx, x, keep ? &saved->attention_norm : nullptr);
  const Tensor a = attention_.forward(ctx, all_rows(ctx, h), keep ? &saved->attention : nullptr);
  const Tensor middle = sum(ctx, x, sum_rows(ctx, a));
  const Tensor g = ffn_norm_.forward(ctx, middle, keep ? &saved->ffn_norm : nullptr);
  return sum(ctx, middle, sum_rows(ctx, ffn_forward(ctx, ffn_, all_rows(ctx, g), saved)));
}

Tensor Block::backward(Context& ctx, const Tensor& dy, const Saved& saved) const {
  const Tensor dg = sum_rows(ctx, ffn_backward(ctx, ffn_, all_rows(ctx, dy), saved));
  const Tensor dmiddle = sum(ctx, dy, ffn_norm_.backward(ctx, dg, saved.ffn_norm));
  const Tensor dh =
      sum_rows(ctx, attention_.backward(ctx, all_rows(ctx, dmiddle), saved.attention));
  return sum(ctx, dmiddle, attention_norm_.backward(ctx, dh, saved.attention_norm));
}

}  // namespace moesaic::model
