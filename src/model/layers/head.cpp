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

// What R rows of logits say about a vocabulary.
struct RowStats {
  std::vector<float> rows;         // [R, 3]
  std::vector<std::int32_t> best;  // [R]
};

// The same on the device.
struct DeviceStats {
  Tensor rows, best;  // (R, 3) fp32, (R) int32

  DeviceStats part(std::int64_t begin, std::int64_t count) const {
    return {rows.rows(begin, count), best.rows(begin, count)};
  }
};

DeviceStats make_stats(const Context& ctx, std::int64_t rows) {
  return {ctx.empty(DType::kF32, {rows, kStats}), ctx.empty(DType::kI32, {rows})};
}

// Joins the shares of tp's ranks. If logits are equal, the lower index wins. Collective over tp.
RowStats whole_vocabulary(const Context& ctx, RowStats own, std::int64_t begin) {
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
float log_sum(const RowStats& stats, std::size_t r) {
  return stats.rows[kStats * r] + std::log(stats.rows[kStats * r + 1]);
}

void append_log_probs(const RowStats& stats, std::span<const std::int32_t> target,
                      std::vector<float>& logprob) {
  for (std::size_t r = 0; r < target.size(); ++r) {
    const float* const row = &stats.rows[kStats * r];
    logprob.push_back(target[r] < 0 ? 0.0F : row[2] - row[0] - std::log(row[1]));
  }
}

void append(const RowStats& stats, std::span<const std::int32_t> target, Head::LogProbs& rows) {
  append_log_probs(stats, target, rows.logprob);
  rows.best.insert(rows.best.end(), stats.best.begin(), stats.best.end());
}

std::span<const std::int32_t> part(const std::vector<std::int32_t>& ids, std::int64_t begin,
                                   std::int64_t count) {
  return std::span(ids).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
}

// Copies of them, that HostCopies has fetched as number `at` and the next one.
RowStats fetched(const HostCopies& copies, std::size_t at) {
  const auto rows = copies.at<float>(at);
  const auto best = copies.at<std::int32_t>(at + 1);
  return {{rows.begin(), rows.end()}, {best.begin(), best.end()}};
}

std::size_t add(HostCopies& copies, const DeviceStats& stats) {
  const std::size_t at = copies.add(stats.rows);
  copies.add(stats.best);
  return at;
}

// Those of the whole vocabulary, from those of this rank's share, which begins there. Collective
// over tp.
RowStats read_whole(const Context& ctx, const DeviceStats& share, std::int64_t begin) {
  HostCopies copies;
  const std::size_t at = add(copies, share);
  copies.fetch(ctx.backend);
  return whole_vocabulary(ctx, fetched(copies, at), begin);
}

// The same in place: nobody waits where one rank has the whole vocabulary.
void make_whole(const Context& ctx, const DeviceStats& share, std::int64_t begin) {
  if (ctx.tp.group().size() > 1) {
    const RowStats whole = read_whole(ctx, share, begin);
    ctx.backend.upload(std::as_bytes(std::span(whole.rows)), share.rows);
    ctx.backend.upload(std::as_bytes(std::span(whole.best)), share.best);
  }
}

}  // namespace

// The same on all ranks of tp, also where their shares of the vocabulary differ by one.
std::int64_t Head::block_rows(const Context& ctx) const {
  return logit_rows(weight_.spec.tensors.front().shape[0], ctx.tp.group().size());
}

const Tensor& Head::local_targets(Context& ctx) const {
  Tensor& target = ctx.batch.device.target;
  if (!target.defined()) {
    target = to_device(ctx.backend, local_ids(ctx.batch.host->target, vocabulary_),
                       {ctx.batch.host->size()});
  }
  return target;
}

Tensor Head::logits(Context& ctx, const Tensor& x) const {
  Tensor logits = ctx.empty(DType::kF32, {x.dim(0), weight_.spec.shape[0]});
  multiply(ctx, x, {}, weight_, logits);
  return logits;
}

Head::LogProbs Head::log_probs(Context& ctx, const Tensor& x) const {
  const Tensor all = all_rows(ctx, x);
  const std::int64_t tokens = all.dim(0);
  const DeviceStats stats = make_stats(ctx, tokens);
  const std::int64_t block = block_rows(ctx);
  for (std::int64_t begin = 0; begin < tokens; begin += block) {
    const std::int64_t rows = std::min(block, tokens - begin);
    const DeviceStats here = stats.part(begin, rows);
    ctx.backend.softmax_stats(logits(ctx, all.rows(begin, rows)),
                              local_targets(ctx).rows(begin, rows), here.rows, here.best);
  }
  LogProbs result;
  append(read_whole(ctx, stats, vocabulary_.begin), ctx.batch.host->target, result);
  return result;
}

Head::Comparison Head::compare(Context& ctx, const Tensor& x, Context& reference_ctx,
                               const Head& reference, const Tensor& reference_x) const {
  const Tensor all = all_rows(ctx, x), reference_all = all_rows(reference_ctx, reference_x);
  const std::vector<std::int32_t>& target = ctx.batch.host->target;
  const std::int64_t tokens = all.dim(0);
  const Tensor divergence = ctx.empty(DType::kF32, {tokens});
  Comparison result;
  const std::int64_t block = block_rows(ctx);
  for (std::int64_t begin = 0; begin < tokens; begin += block) {
    const std::int64_t rows = std::min(block, tokens - begin);
    const Tensor theirs = reference.logits(reference_ctx, reference_all.rows(begin, rows));
    const Tensor ours = logits(ctx, all.rows(begin, rows));
    HostCopies copies;
    const auto start = [&](const Tensor& scores) {
      const DeviceStats stats = make_stats(ctx, rows);
      ctx.backend.softmax_stats(scores, local_targets(ctx).rows(begin, rows), stats.rows,
                                stats.best);
      return add(copies, stats);
    };
    const std::size_t at_theirs = start(theirs);
    const std::size_t at_ours = start(ours);
    copies.fetch(ctx.backend);
    const auto targets = part(target, begin, rows);
    std::vector<float> log_sums(2 * targets.size());
    // The log-probabilities of one model; model: its column of log_sums.
    const auto read = [&](std::size_t at, std::size_t model, LogProbs& to) {
      const RowStats stats = whole_vocabulary(ctx, fetched(copies, at), vocabulary_.begin);
      append(stats, targets, to);
      for (std::size_t r = 0; r < targets.size(); ++r) {
        log_sums[2 * r + model] = log_sum(stats, r);
      }
    };
    read(at_theirs, 0, result.reference);
    read(at_ours, 1, result.own);
    const Tensor here = divergence.rows(begin, rows);
    ctx.backend.divergence(theirs, ours, to_device(ctx.backend, log_sums, {rows, 2}), here);
    ctx.tp.all_reduce_sum(here);
  }
  result.divergence = to_host_f32(ctx.backend, divergence);
  return result;
}

// Collective over tp: rows (R, V) from each rank's share of them.
std::vector<float> Head::whole_rows(const Context& ctx, std::span<const float> share,
                                    std::int64_t rows) const {
  const comm::Communicator& group = ctx.tp.group();
  const std::vector<float> all = group.all_gather(share);
  const std::int64_t vocabulary = weight_.spec.tensors.front().shape[0];
  std::vector<float> whole(all.size());
  auto from = all.begin();
  for (int r = 0; r < group.size(); ++r) {
    const Slice part = share_of(vocabulary, r, group.size());
    for (std::int64_t row = 0; row < rows; ++row, from += part.count) {
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
    const DeviceStats of_share = make_stats(ctx, now);
    ctx.backend.softmax_stats(share, none.rows(begin, now), of_share.rows, of_share.best);
    HostCopies copies;
    const std::size_t at = add(copies, of_share);
    const std::size_t at_logits = logits_wanted ? copies.add(share) : 0;
    copies.fetch(ctx.backend);
    const RowStats stats = whole_vocabulary(ctx, fetched(copies, at), vocabulary_.begin);
    const std::vector<float> whole =
        logits_wanted ? whole_rows(ctx, copies.at<float>(at_logits), now) : std::vector<float>();
    const std::size_t width = whole.size() / static_cast<std::size_t>(now);
    for (std::size_t i = 0; i < stats.best.size(); ++i) {
      use(static_cast<std::size_t>(begin) + i,
          {stats.best[i], stats.rows[kStats * i], log_sum(stats, i)},
          std::span(whole).subspan(i * width, width));
    }
  }
}

Head::Loss Head::loss(Context& ctx, const Tensor& x, std::span<const float> weight,
                      bool wants_dx) const {
  const Tensor all = all_rows(ctx, x);
  const std::int64_t tokens = all.dim(0);
  const Tensor weights = ctx.empty(DType::kF32, {tokens});
  ctx.backend.upload(std::as_bytes(weight), weights);
  const Tensor dx = wants_dx ? ctx.empty(DType::kF32, all.shape()) : Tensor();
  const DeviceStats stats = make_stats(ctx, tokens);
  const Tensor spread = ctx.empty(DType::kF32, {tokens});
  const std::int64_t block = block_rows(ctx);
  for (std::int64_t begin = 0; begin < tokens; begin += block) {
    const std::int64_t rows = std::min(block, tokens - begin);
    const Tensor x_rows = all.rows(begin, rows);
    const Tensor target = local_targets(ctx).rows(begin, rows);
    const Tensor scores = logits(ctx, x_rows);
    const DeviceStats here = stats.part(begin, rows);
    ctx.backend.softmax_stats(scores, target, here.rows, here.best);
    make_whole(ctx, here, vocabulary_.begin);
    const Tensor dscores =
        ctx.compute == DType::kF32 ? scores : ctx.empty(ctx.compute, scores.shape());
    ctx.backend.cross_entropy_backward(scores, target, here.rows, weights.rows(begin, rows),
                                       dscores, spread.rows(begin, rows));
    add_weight_gradient(ctx, dscores, x_rows, {}, weight_);
    if (wants_dx) {
      ctx.backend.matmul(dscores, Transpose::kNo, weight_.compute, Transpose::kNo,
                         dx.rows(begin, rows), Write::kOverwrite);
    }
  }
  return {.dx = wants_dx ? sum_rows(ctx, dx) : dx,
          .rows = {.target = ctx.batch.host->target,
                   .stats = stats.rows,
                   .best = stats.best,
                   .spread = spread}};
}

namespace {

Head::Metrics metrics_of(const RowStats& stats, std::span<const float> spread,
                         std::span<const std::int32_t> target, bool first_of_tp) {
  Head::Metrics metrics;
  append_log_probs(stats, target, metrics.logprob);
  for (std::size_t r = 0; r < target.size(); ++r) {
    if (target[r] >= 0) {
      const auto total = static_cast<double>(stats.rows[kStats * r + 1]);
      metrics.correct += stats.best[r] == target[r] ? 1 : 0;
      metrics.entropy +=
          (first_of_tp ? std::log(total) : 0.0) - static_cast<double>(spread[r]) / total;
    }
  }
  return metrics;
}

}  // namespace

std::vector<Head::Metrics> Head::read(const Context& ctx, std::span<const LossRows> rows) {
  HostCopies copies;
  for (const LossRows& one : rows) {
    add(copies, {one.stats, one.best});
    copies.add(one.spread);
  }
  copies.fetch(ctx.backend);
  std::vector<Metrics> all;
  for (std::size_t at = 0; const LossRows& one : rows) {
    all.push_back(metrics_of(fetched(copies, at), copies.at<float>(at + 2), one.target,
                             ctx.tp.group().rank() == 0));
    at += 3;
  }
  return all;
}

}  // namespace moesaic::model
