#include "model/layers/head.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "backend/transfer.h"
#include "base/share.h"
#include "model/device_batch.h"
#include "model/layers/linear.h"
#include "model/tensor_parallel.h"

namespace moesaic::model {
namespace {

constexpr std::size_t kStats = 3;  // of a row: largest logit, sum of exp(logit - largest), target's

// What a block of rows says about the whole vocabulary.
struct BlockStats {
  std::vector<float> rows;         // [R, 3]
  std::vector<std::int32_t> best;  // [R]
};

// Joins the shares of tp's ranks. If logits are equal, the lower index wins. Collective over tp.
BlockStats whole_vocabulary(const Context& ctx, BlockStats own, std::int64_t begin) {
  const comm::Communicator& group = ctx.tp.group();
  for (std::int32_t& best : own.best) {
    best += static_cast<std::int32_t>(begin);
  }
  const std::vector<float> all = group.all_gather(std::span<const float>(own.rows));
  const std::vector<std::int32_t> bests = group.all_gather(std::span<const std::int32_t>(own.best));
  const std::size_t count = own.best.size();
  for (std::size_t r = 0; r < count; ++r) {
    float* const row = &own.rows[kStats * r];
    row[0] = -INFINITY;
    for (std::size_t i = r; i < bests.size(); i += count) {
      if (all[kStats * i] > row[0]) {
        row[0] = all[kStats * i];
        own.best[r] = bests[i];
      }
    }
    row[1] = row[2] = 0.0F;
    for (std::size_t i = r; i < bests.size(); i += count) {
      row[1] += all[kStats * i + 1] * std::exp(all[kStats * i] - row[0]);
      row[2] += all[kStats * i + 2];
    }
  }
  return own;
}

// log sum of exp(logit) of row r.
float log_sum(const BlockStats& stats, std::size_t r) {
  return stats.rows[kStats * r] + std::log(stats.rows[kStats * r + 1]);
}

void append_log_probs(const BlockStats& stats, std::span<const std::int32_t> target,
                      std::vector<float>& logprob) {
  for (std::size_t r = 0; r < target.size(); ++r) {
    const float* const row = &stats.rows[kStats * r];
    logprob.push_back(target[r] < 0 ? 0.0F : row[2] - row[0] - std::log(row[1]));
  }
}

void append(const BlockStats& stats, std::span<const std::int32_t> target, Head::LogProbs& rows) {
  append_log_probs(stats, target, rows.logprob);
  rows.best.insert(rows.best.end(), stats.best.begin(), stats.best.end());
}

std::span<const std::int32_t> part(const std::vector<std::int32_t>& ids, std::int64_t begin,
                                   std::int64_t count) {
  return std::span(ids).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
}

BlockStats stats_of(Context& ctx, const Tensor& logits, const Tensor& target, std::int64_t begin) {
  const std::int64_t rows = logits.dim(0);
  const Tensor stats = ctx.empty(DType::kF32, {rows, kStats});
  const Tensor best = ctx.empty(DType::kI32, {rows});
  ctx.backend.softmax_stats(logits, target, stats, best);
  return whole_vocabulary(ctx, {to_host_f32(ctx.backend, stats), to_host_i32(ctx.backend, best)},
                          begin);
}

}  // namespace

// The same on all ranks of tp, also where their shares of the vocabulary differ by one.
std::int64_t Head::block_rows(const Context& ctx) const {
  return logit_rows(weight_.spec.tensors.front().shape[0], ctx.tp.group().size());
}

Tensor Head::logits(Context& ctx, const Tensor& x) const {
  Tensor logits = ctx.empty(DType::kF32, {x.dim(0), weight_.spec.shape[0]});
  multiply(ctx, x, {}, weight_, logits);
  return logits;
}

Head::LogProbs Head::log_probs(Context& ctx, const Tensor& x) const {
  const Tensor all = all_rows(ctx, x);
  const std::vector<std::int32_t>& target = ctx.batch.host->target;
  const std::int64_t tokens = all.dim(0);
  const Tensor local = to_device(ctx.backend, local_ids(target, vocabulary_), {tokens});
  LogProbs result;
  const std::int64_t block = block_rows(ctx);
  for (std::int64_t begin = 0; begin < tokens; begin += block) {
    const std::int64_t rows = std::min(block, tokens - begin);
    const BlockStats stats = stats_of(ctx, logits(ctx, all.rows(begin, rows)),
                                      local.rows(begin, rows), vocabulary_.begin);
    append(stats, part(target, begin, rows), result);
  }
  return result;
}

Head::Comparison Head::compare(Context& ctx, const Tensor& x, Context& reference_ctx,
                               const Head& reference, const Tensor& reference_x) const {
  const Tensor all = all_rows(ctx, x), reference_all = all_rows(reference_ctx, reference_x);
  const std::vector<std::int32_t>& target = ctx.batch.host->target;
  const std::int64_t tokens = all.dim(0);
  const Tensor local = to_device(ctx.backend, local_ids(target, vocabulary_), {tokens});
  Comparison result;
  const std::int64_t block = block_rows(ctx);
  for (std::int64_t begin = 0; begin < tokens; begin += block) {
    const std::int64_t rows = std::min(block, tokens - begin);
    const auto targets = part(target, begin, rows);
    std::vector<float> log_sums(2 * targets.size());
    // The log-probabilities of one model; model: its column of log_sums.
    const auto read = [&](const Tensor& scores, std::size_t model, LogProbs& to) {
      const BlockStats stats = stats_of(ctx, scores, local.rows(begin, rows), vocabulary_.begin);
      append(stats, targets, to);
      for (std::size_t r = 0; r < targets.size(); ++r) {
        log_sums[2 * r + model] = log_sum(stats, r);
      }
    };
    const Tensor theirs = reference.logits(reference_ctx, reference_all.rows(begin, rows));
    const Tensor ours = logits(ctx, all.rows(begin, rows));
    read(theirs, 0, result.reference);
    read(ours, 1, result.own);
    const Tensor divergence = ctx.empty(DType::kF32, {rows});
    ctx.backend.divergence(theirs, ours, to_device(ctx.backend, log_sums, {rows, 2}), divergence);
    ctx.tp.all_reduce_sum(divergence);
    const std::vector<float> values = to_host_f32(ctx.backend, divergence);
    result.divergence.insert(result.divergence.end(), values.begin(), values.end());
  }
  return result;
}

// Collective over tp: rows (R, V) from each rank's share of them.
std::vector<float> Head::whole_rows(const Context& ctx, const Tensor& share) const {
  const comm::Communicator& group = ctx.tp.group();
  const std::vector<float> own = to_host_f32(ctx.backend, share);
  const std::vector<float> all = group.all_gather(std::span<const float>(own));
  const std::int64_t vocabulary = weight_.spec.tensors.front().shape[0];
  std::vector<float> whole(all.size());
  auto from = all.begin();
  for (int r = 0; r < group.size(); ++r) {
    const Slice part = share_of(vocabulary, r, group.size());
    for (std::int64_t row = 0; row < share.dim(0); ++row, from += part.count) {
      std::copy_n(from, part.count, whole.begin() + row * vocabulary + part.begin);
    }
  }
  return whole;
}

void Head::each_row(
    Context& ctx, const Tensor& x, const std::vector<std::int32_t>& rows, bool logits_wanted,
    const std::function<void(std::size_t i, const Peak& peak, std::span<const float> logits)>& use)
    const {
  constexpr std::int64_t kOnHost = 16;  // rows
  const Tensor all = all_rows(ctx, x);
  const std::int64_t count = std::ssize(rows);
  const Tensor picked = ctx.empty(all.dtype(), {count, all.dim(1)});
  ctx.backend.gather_rows(all, to_device(ctx.backend, rows, {count}), picked);
  const Tensor none = to_device(ctx.backend, std::vector<std::int32_t>(rows.size(), -1), {count});
  const std::int64_t block = logits_wanted ? kOnHost : block_rows(ctx);
  for (std::int64_t begin = 0; begin < count; begin += block) {
    const std::int64_t now = std::min(block, count - begin);
    const Tensor share = logits(ctx, picked.rows(begin, now));
    const BlockStats stats = stats_of(ctx, share, none.rows(begin, now), vocabulary_.begin);
    const std::vector<float> whole = logits_wanted ? whole_rows(ctx, share) : std::vector<float>();
    const std::size_t width = whole.size() / static_cast<std::size_t>(now);
    for (std::size_t i = 0; i < stats.best.size(); ++i) {
      use(static_cast<std::size_t>(begin) + i,
          {stats.best[i], stats.rows[kStats * i], log_sum(stats, i)},
          std::span(whole).subspan(i * width, width));
    }
  }
}

namespace {

// Adds what a block of rows, whose targets these are, says besides its loss.
void add_metrics(const BlockStats& stats, std::span<const std::int32_t> target,
                 const std::vector<float>& spread, bool first_of_tp, Head::Loss& to) {
  for (std::size_t r = 0; r < target.size(); ++r) {
    if (target[r] >= 0) {
      const auto total = static_cast<double>(stats.rows[kStats * r + 1]);
      to.correct += stats.best[r] == target[r] ? 1 : 0;
      to.entropy += (first_of_tp ? std::log(total) : 0.0) - static_cast<double>(spread[r]) / total;
    }
  }
}

}  // namespace

Head::Loss Head::loss(Context& ctx, const Tensor& x, std::span<const float> weight,
                      bool wants_dx) const {
  const Tensor all = all_rows(ctx, x);
  const std::vector<std::int32_t>& target = ctx.batch.host->target;
  const std::int64_t tokens = all.dim(0);
  const Tensor local = to_device(ctx.backend, local_ids(target, vocabulary_), {tokens});
  const Tensor weights = ctx.empty(DType::kF32, {tokens});
  ctx.backend.upload(std::as_bytes(weight), weights);
  const Tensor dx = wants_dx ? ctx.empty(DType::kF32, all.shape()) : Tensor();
  Loss result;
  const std::int64_t block = block_rows(ctx);
  for (std::int64_t begin = 0; begin < tokens; begin += block) {
    const std::int64_t rows = std::min(block, tokens - begin);
    const Tensor x_rows = all.rows(begin, rows);
    const Tensor scores = logits(ctx, x_rows);
    const BlockStats stats = stats_of(ctx, scores, local.rows(begin, rows), vocabulary_.begin);
    append_log_probs(stats, part(target, begin, rows), result.logprob);
    const Tensor dscores =
        ctx.compute == DType::kF32 ? scores : ctx.empty(ctx.compute, scores.shape());
    const Tensor spread = ctx.empty(DType::kF32, {rows});
    ctx.backend.cross_entropy_backward(scores, local.rows(begin, rows),
                                       to_device(ctx.backend, stats.rows, {rows, kStats}),
                                       weights.rows(begin, rows), dscores, spread);
    add_metrics(stats, part(target, begin, rows), to_host_f32(ctx.backend, spread),
                ctx.tp.group().rank() == 0, result);
    add_weight_gradient(ctx, dscores, x_rows, {}, weight_);
    if (wants_dx) {
      ctx.backend.matmul(dscores, Transpose::kNo, weight_.compute, Transpose::kNo,
                         dx.rows(begin, rows), Write::kOverwrite);
    }
  }
  result.dx = wants_dx ? sum_rows(ctx, dx) : dx;
  return result;
}

}  // namespace moesaic::model
