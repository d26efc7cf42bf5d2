#include "model/layers/block.h"

#include <utility>

#include "model/tensor_parallel.h"

namespace moesaic::model {
namespace {

Tensor sum(Context& ctx, const Tensor& x, const Tensor& y) {
  ctx.backend.add(x, y);
  return y;
}

// Call the layer of a variant with the Saved of its own type, one of those of `saved`.
template <class Layers, class Saves>
Tensor forward_of(Context& ctx, const Layers& layers, const Tensor& x, Saves* saved) {
  return std::visit(
      [&](const auto& layer) {
        using L = std::decay_t<decltype(layer)>;
        return layer.forward(
            ctx, x, saved != nullptr ? &saved->template emplace<typename L::Saved>() : nullptr);
      },
      layers);
}

template <class Layers, class Saves>
Tensor backward_of(Context& ctx, const Layers& layers, const Tensor& dy, const Saves& saved) {
  return std::visit(
      [&](const auto& layer) {
        using L = std::decay_t<decltype(layer)>;
        return layer.backward(ctx, dy, std::get<typename L::Saved>(saved));
      },
      layers);
}

}  // namespace

Block::Block(RmsNorm attention_norm, SelfAttention attention, RmsNorm ffn_norm, Ffn ffn)
    : attention_norm_(attention_norm),
      attention_(std::move(attention)),
      ffn_norm_(ffn_norm),
      ffn_(std::move(ffn)) {}

Tensor Block::forward(Context& ctx, const Tensor& x, Saved* saved) const {
  const bool keep = saved != nullptr;
  const Tensor h = attention_norm_.forward(ctx, x, keep ? &saved->attention_norm : nullptr);
  const Tensor a =
      forward_of(ctx, attention_, all_rows(ctx, h), keep ? &saved->attention : nullptr);
  const Tensor middle = sum(ctx, x, sum_rows(ctx, a));
  const Tensor g = ffn_norm_.forward(ctx, middle, keep ? &saved->ffn_norm : nullptr);
  const Tensor f = forward_of(ctx, ffn_, all_rows(ctx, g), keep ? &saved->ffn : nullptr);
  return sum(ctx, middle, sum_rows(ctx, f));
}

std::int64_t Block::page_elements() const {
  return std::visit([](const auto& attention) { return attention.page_elements(); }, attention_);
}

LayerCache Block::make_cache(const Context& ctx, std::int64_t pages) const {
  return std::visit([&](const auto& attention) { return attention.make_cache(ctx, pages); },
                    attention_);
}

Tensor Block::backward(Context& ctx, const Tensor& dy, const Saved& saved) const {
  const Tensor dg = sum_rows(ctx, backward_of(ctx, ffn_, all_rows(ctx, dy), saved.ffn));
  const Tensor dmiddle = sum(ctx, dy, ffn_norm_.backward(ctx, dg, saved.ffn_norm));
  const Tensor dh =
      sum_rows(ctx, backward_of(ctx, attention_, all_rows(ctx, dmiddle), saved.attention));
  return sum(ctx, dmiddle, attention_norm_.backward(ctx, dh, saved.attention_norm));
}

}  // namespace moesaic::model
