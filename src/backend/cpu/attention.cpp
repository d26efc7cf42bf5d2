#include <fmt/format.h>

#include <vector>

#include "backend/cpu/cpu_backend.h"

namespace moesaic::cpu {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// Elements of a token in a fused qkv tensor: before its values, and all.
std::int64_t values_begin(const AttentionShape& shape) {
  return (shape.heads + shape.kv_heads) * shape.head_dim;
}
std::int64_t fused_width(const AttentionShape& shape) {
  return values_begin(shape) + shape.kv_heads * shape.v_dim;
}

void require_fused(const Tensor& qkv, const AttentionShape& shape) {
  if (shape.head_dim <= 0 || shape.v_dim <= 0 || qkv.dim(1) != fused_width(shape)) {
    throw Error(Exit::kInternal,
                fmt::format("attention of {} with {} + {} heads of {} and {}", qkv.shape().text(),
                            shape.heads, shape.kv_heads, shape.head_dim, shape.v_dim));
  }
}

// The row where position 0 of a run would be if all its tokens were its own.
std::int64_t base_of(const KeyRun& run) { return run.begin - run.shared; }

// One query head of a fused qkv tensor (T, H hd + Hkv hd + Hkv vd), for the rows of a run.
template <class A>
AttentionHead<A> head_of(const Tensor& qkv, const AttentionShape& shape, const VisibleKeys& keys,
                         const KeyRun& run, std::int64_t head) {
  const A* data = qkv.as<A>().data() + base_of(run) * fused_width(shape);
  const std::int64_t kv = head / (shape.heads / shape.kv_heads);
  return {.q = data + head * shape.head_dim,
          .k = data + (shape.heads + kv) * shape.head_dim,
          .v = data + values_begin(shape) + kv * shape.v_dim,
          .stride = fused_width(shape),
          .first_key = keys.first.as<std::int32_t>().data() + base_of(run),
          .tokens = run.size(),
          .head_dim = shape.head_dim,
          .v_dim = shape.v_dim,
          .scale = shape.scale,
          .shared = run.shared,
          .back = base_of(run) - run.leader};
}

// Tiles of queries that share keys and values once converted.
constexpr std::int64_t kTilesAtOnce = 16;

// The tiles of queries of a run, by their numbers in its sequence.
Range tiles_of(const KeyRun& run) {
  return {run.shared / kAttentionTile, (run.size() + kAttentionTile - 1) / kAttentionTile};
}

// The most keys that so many tiles of queries of a run see, from the first tile of them on.
// first_key: of all rows.
std::int64_t most_keys(std::span<const std::int32_t> first_key, const KeyRun& run) {
  const Range tiles = tiles_of(run);
  std::int64_t most = 0;
  for (std::int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
    const std::int64_t query = tile * kAttentionTile;
    const std::int64_t end = std::min(query + kTilesAtOnce * kAttentionTile, run.size());
    const std::int64_t first = first_key[at(base_of(run) + std::max(query, run.shared))];
    most = std::max(most, end - first / kAttentionTile * kAttentionTile);
  }
  return most;
}

// Whether threads take whole heads of keys in the backward pass of attention. Otherwise they share
// tiles, first of keys and then of queries: the same sums in the same order, so the same bits, but
// seven products instead of five, as scores and their gradients are computed for both.
bool whole_heads(std::int64_t kv_heads, std::int64_t threads) {
  const std::int64_t rounds = (kv_heads + threads - 1) / threads;
  return 5 * rounds * threads <= 7 * kv_heads;
}

// The first, the last, the second, ...: causality makes work grow or shrink with the place, and so
// any neighbours in this order have about as much of it.
std::int64_t from_both_ends(std::int64_t i, std::int64_t n) {
  return i % 2 == 0 ? i / 2 : n - 1 - i / 2;
}

}  // namespace

void CpuBackend::attention(const Tensor& qkv, const AttentionShape& shape, const VisibleKeys& keys,
                           const Tensor& out, const Tensor& lse) {
  require_fused(qkv, shape);
  const KeyRun whole{.begin = 0, .rows = qkv.dim(0)};
  const std::span<const KeyRun> runs = keys.runs.empty() ? std::span(&whole, 1) : keys.runs;
  std::int64_t most = 0;
  std::vector<std::int64_t> starts = {0};  // of the runs among all tiles of a head
  for (const KeyRun& run : runs) {
    const Range tiles = tiles_of(run);
    most = std::max(most, most_keys(keys.first.as<std::int32_t>(), run));
    starts.push_back(starts.back() + tiles.end - tiles.begin);
  }
  const std::int64_t scratch_size = attention_scratch(most, shape.head_dim, shape.v_dim);
  const Tensor scratch = empty(DType::kF32, {threads_, scratch_size});
  const std::int64_t tiles = starts.back();
  with_kernels(qkv.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    // Tiles [begin, end) of a run, by their numbers among all of a head.
    const auto compute = [&](std::int64_t head, std::size_t r, Range range, std::int64_t thread) {
      const KeyRun& run = runs[r];
      const std::int64_t before = starts[r] - tiles_of(run).begin;
      const std::int64_t row = base_of(run) * shape.heads + head;
      kernels.attention(head_of<A>(qkv, shape, keys, run, head),
                        (range.begin - before) * kAttentionTile,
                        std::min((range.end - before) * kAttentionTile, run.size()),
                        out.as<A>().data() + row * shape.v_dim, shape.heads * shape.v_dim,
                        lse.as<float>().data() + row, shape.heads,
                        scratch.as<float>().data() + thread * scratch_size);
    };
    share(shape.heads * tiles, [&](std::int64_t begin, std::int64_t end, std::int64_t thread) {
      for (std::int64_t i = begin, next = 0; i < end; i = next) {
        const std::int64_t head = i / tiles;
        const std::int64_t tile = i % tiles;
        const auto after = std::upper_bound(starts.begin(), starts.end(), tile);
        next = std::min({end, head * tiles + *after, i + kTilesAtOnce});
        compute(head, at(after - starts.begin() - 1), {tile, next - head * tiles}, thread);
      }
    });
  });
}

void CpuBackend::attention_backward(const Tensor& dout, const Tensor& qkv, const Tensor& out,
                                    const Tensor& lse, const AttentionShape& shape,
                                    const Tensor& first_key, const Tensor& dqkv) {
  require_fused(qkv, shape);
  const std::int64_t tokens = qkv.dim(0);
  const KeyRun whole{.begin = 0, .rows = tokens};
  const std::int64_t tiles = tiles_of(whole).end;
  const std::int64_t hd = shape.head_dim;
  const std::int64_t vd = shape.v_dim;
  const std::int64_t padded = padded_head(hd);
  const std::int64_t v_padded = padded_head(vd);
  const std::int64_t stride = fused_width(shape);
  const std::int64_t group = shape.heads / shape.kv_heads;
  const std::int64_t scratch_size = attention_backward_scratch(tokens, hd, vd);
  const Tensor scratch =
      empty(DType::kF32, {threads_, scratch_size + tokens * (padded + v_padded)});
  with_kernels(qkv.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    // One query head; dq, dk and dv where they are not null.
    const auto run = [&](std::int64_t head, Range keys, Range queries, A* dq, float* dk, float* dv,
                         std::int64_t thread) {
      const AttentionGradient<A> gradient{.dout = dout.as<A>().data() + head * vd,
                                          .out = out.as<A>().data() + head * vd,
                                          .out_stride = shape.heads * vd,
                                          .lse = lse.as<float>().data() + head,
                                          .lse_stride = shape.heads,
                                          .keys = keys,
                                          .queries = queries,
                                          .dq = dq,
                                          .dk = dk,
                                          .dv = dv};
      kernels.attention_backward(head_of<A>(qkv, shape, {first_key}, whole, head), gradient,
                                 scratch.as<float>().data() + thread * scratch.dim(1));
    };
    const auto dq_of = [&](std::int64_t head) { return dqkv.as<A>().data() + head * hd; };
    // dk and dv of some keys, from all query heads that share them.
    const auto run_keys = [&](std::int64_t kv, Range keys, bool with_dq, std::int64_t thread) {
      const std::int64_t count = keys.end - keys.begin;
      float* dk = scratch.as<float>().data() + thread * scratch.dim(1) + scratch_size;
      float* dv = dk + count * padded;
      std::memset(dk, 0, at(count * (padded + v_padded)) * sizeof(float));
      for (std::int64_t head = kv * group; head < (kv + 1) * group; ++head) {
        run(head, keys, {0, tokens}, with_dq ? dq_of(head) : nullptr, dk, dv, thread);
      }
      A* row = dqkv.as<A>().data() + keys.begin * stride;
      A* dk_out = row + (shape.heads + kv) * hd;
      A* dv_out = row + values_begin(shape) + kv * vd;
      for (std::int64_t t = 0; t < count; ++t) {
        kernels.from_float(dk + t * padded, dk_out + t * stride, hd);
        kernels.from_float(dv + t * v_padded, dv_out + t * stride, vd);
      }
    };
    if (whole_heads(shape.kv_heads, threads_)) {
      share(shape.kv_heads, [&](std::int64_t begin, std::int64_t end, std::int64_t thread) {
        for (std::int64_t kv = begin; kv < end; ++kv) {
          run_keys(kv, {0, tokens}, true, thread);
        }
      });
      return;
    }
    const auto tile = [&](std::int64_t i) {
      const std::int64_t begin = from_both_ends(i % tiles, tiles) * kAttentionTile;
      return Range{begin, std::min(begin + kAttentionTile, tokens)};
    };
    share(shape.kv_heads * tiles, [&](std::int64_t begin, std::int64_t end, std::int64_t thread) {
      for (std::int64_t i = begin; i < end; ++i) {
        run_keys(i / tiles, tile(i), false, thread);
      }
    });
    share(shape.heads * tiles, [&](std::int64_t begin, std::int64_t end, std::int64_t thread) {
      for (std::int64_t i = begin; i < end; ++i) {
        const Range queries = tile(i);
        run(i / tiles, {0, queries.end}, queries, dq_of(i / tiles), nullptr, nullptr, thread);
      }
    });
  });
}

}  // namespace moesaic::cpu
