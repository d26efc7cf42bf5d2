#include "model/head.h"

#include <algorithm>

namespace moesaic::model {

// Blocks of logits of about 4 MiB stay in cache between the product and the softmax.
std::int64_t Head::block_rows() const {
  constexpr std::int64_t kElements = std::int64_t{1} << 20U;
  return std::clamp<std::int64_t>(kElements / weight_.value.dim(0), 32, 512);
}

Tensor Head::logits(Context& ctx, const Tensor& x) const {
  Tensor logits = ctx.empty(DType::kF32, {x.dim(0), weight_.value.dim(0)});
  ctx.backend.matmul(x, Transpose::kNo, weight_.compute, Transpose::kYes, logits,
                     Write::kOverwrite);
  return logits;
}

Head::LogProbs Head::log_probs(Context& ctx, const Tensor& x) const {
  const std::int64_t tokens = x.dim(0);
  const Tensor logprob = ctx.empty(DType::kF32, {tokens});
  const Tensor best = ctx.empty(DType::kI32, {tokens});
  for (std::int64_t begin = 0; begin < tokens; begin += block_rows()) {
    const std::int64_t rows = std::min(block_rows(), tokens - begin);
    ctx.backend.target_log_probs(logits(ctx, x.rows(begin, rows)),
                                 ctx.batch.target.rows(begin, rows), logprob.rows(begin, rows),
                                 best.rows(begin, rows));
  }
  return {to_host_f32(ctx.backend, logprob), to_host_i32(ctx.backend, best)};
}

std::vector<float> Head::loss(Context& ctx, const Tensor& x, float scale, const Tensor& dx) const {
  const std::int64_t tokens = x.dim(0);
  const Tensor logprob = ctx.empty(DType::kF32, {tokens});
  for (std::int64_t begin = 0; begin < tokens; begin += block_rows()) {
    const std::int64_t rows = std::min(block_rows(), tokens - begin);
    const Tensor block = x.rows(begin, rows);
    const Tensor scores = logits(ctx, block);
    const Tensor dscores =
        ctx.compute == DType::kF32 ? scores : ctx.empty(ctx.compute, scores.shape());
    ctx.backend.cross_entropy(scores, ctx.batch.target.rows(begin, rows), scale,
                              logprob.rows(begin, rows), dscores);
    ctx.backend.matmul(dscores, Transpose::kYes, block, Transpose::kNo, weight_.grad, Write::kAdd);
    ctx.backend.matmul(dscores, Transpose::kNo, weight_.compute, Transpose::kNo,
                       dx.rows(begin, rows), Write::kOverwrite);
  }
  return to_host_f32(ctx.backend, logprob);
}

}  // namespace moesaic::model
