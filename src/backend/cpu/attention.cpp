#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <vector>

#include "backend/attention_checks.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/seen_range.h"

namespace moesaic::cpu {
namespace {

static_assert(kKeyTile == kAttentionTile && kPageTokens == kAttentionTile);

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// Row 0 of a head, and the elements from row to row.
template <class A>
A* head_of(const HeadRows& rows, std::int64_t head) {
  return rows.rows.as<A>().data() + rows.heads.first + head * rows.heads.stride;
}
std::int64_t row_of(const HeadRows& rows) { return rows.rows.dim(1); }

template <class A>
AttentionHead<A> one_head(const HeadRows& q, const KeyRows& keys, const VisibleKeys& visible,
                          float scale, std::int64_t head) {
  const std::int64_t kv = head / (q.heads.groups / keys.k.heads.groups);
  return {.q = head_of<A>(q, head),
          .q_stride = row_of(q),
          .k = head_of<A>(keys.k, kv),
          .k_stride = row_of(keys.k),
          .v = head_of<A>(keys.v, kv),
          .v_stride = row_of(keys.v),
          .first = visible.first.as<std::int32_t>().data(),
          .last = visible.last.as<std::int32_t>().data(),
          .keys = {keys.begin, keys.end()},
          .head_dim = q.heads.width,
          .v_dim = keys.v.heads.width,
          .scale = scale};
}

// Tiles of queries that share keys and values once converted.
constexpr std::int64_t kTilesAtOnce = 16;

// Neighbouring query rows of one origin and fork, in tiles.
struct Stretch {
  Range rows;
  std::int64_t origin = 0, fork = kNoFork, jump = 0;
  std::vector<Range> seen;  // by each tile

  bool goes_on_as(const Stretch& next) const {
    return origin == next.origin && fork == next.fork && jump == next.jump;
  }
  std::int64_t tiles() const {
    return (rows.end - rows.begin + kAttentionTile - 1) / kAttentionTile;
  }
  Range rows_of(Range part) const {
    return {rows.begin + part.begin * kAttentionTile,
            std::min(rows.begin + part.end * kAttentionTile, rows.end)};
  }
  // By some of its tiles, all together.
  Range seen_by(Range part) const {
    Range all = seen[at(part.begin)];
    for (std::int64_t tile = part.begin + 1; tile < std::min(part.end, tiles()); ++tile) {
      all = {std::min(all.begin, seen[at(tile)].begin), std::max(all.end, seen[at(tile)].end)};
    }
    return all;
  }
};

std::vector<Stretch> stretches_of(const VisibleKeys& visible, std::int64_t rows) {
  const auto numbers = [](const Tensor& t) {
    return t.defined() ? t.as<std::int32_t>().data() : nullptr;
  };
  const std::int32_t* const origin = numbers(visible.origin);
  const std::int32_t* const fork = numbers(visible.fork);
  const std::int32_t* const jump = numbers(visible.jump);
  std::vector<Stretch> stretches;
  for (std::int64_t t = 0; t < rows; ++t) {
    const Stretch here{.rows = {t, t + 1},
                       .origin = origin != nullptr ? origin[t] : 0,
                       .fork = fork != nullptr ? fork[t] : kNoFork,
                       .jump = fork != nullptr ? jump[t] : 0,
                       .seen = {}};
    if (!stretches.empty() && stretches.back().goes_on_as(here)) {
      stretches.back().rows.end = t + 1;
    } else {
      stretches.push_back(here);
    }
  }
  for (Stretch& stretch : stretches) {
    for (std::int64_t tile = 0; tile < stretch.tiles(); ++tile) {
      stretch.seen.push_back(seen_range(visible, stretch.rows_of({tile, tile + 1})));
    }
  }
  return stretches;
}

// The most keys, in whole tiles, that so many tiles of queries see of those that are there, from
// any tile on: a thread's share may begin at each.
std::int64_t most_keys(const KeyRows& keys, std::span<const Stretch> stretches) {
  std::int64_t most = 0;
  for (const Stretch& stretch : stretches) {
    for (std::int64_t tile = 0; tile < stretch.tiles(); ++tile) {
      const Range seen = stretch.seen_by({tile, tile + kTilesAtOnce});
      most = std::max(most, std::min(seen.end, keys.end()) - std::max(seen.begin, keys.begin));
    }
  }
  return most + 2 * kAttentionTile;  // the tiles of the first and the last of them
}

std::vector<StripRange> strips_of(const VisibleKeys& visible, std::int64_t rows) {
  constexpr std::int64_t kStrip = 16;
  const std::span first = visible.first.as<std::int32_t>();
  const std::span last = visible.last.as<std::int32_t>();
  std::vector<StripRange> strips;
  for (std::int64_t begin = 0; begin < rows; begin += kStrip) {
    StripRange strip{std::numeric_limits<std::int32_t>::max(), 0,
                     std::numeric_limits<std::int32_t>::max(), 0};
    for (std::int64_t t = begin; t < std::min(begin + kStrip, rows); ++t) {
      const std::int32_t f = first[at(t)];
      const std::int32_t l = last[at(t)];
      if (f < l) {
        strip = {std::min(strip.least_first, f), std::max(strip.most_first, f),
                 std::min(strip.least_last, l), std::max(strip.most_last, l)};
      } else {
        strip.least_last = 0;  // one that sees nothing
      }
    }
    strips.push_back(strip);
  }
  return strips;
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

template <class A>
AttentionParts<A> results_of(const Tensor& out, const Tensor& lse, std::int64_t head) {
  const std::int64_t width = out.dim(2);
  return {.out = out.as<A>().data() + head * width,
          .out_row = out.dim(1) * width,
          .lse = lse.as<float>().data() + head,
          .lse_row = lse.dim(1)};
}

template <class A>
AttentionParts<A> sums_of(const AttentionSums& sums, Write write, std::int64_t head) {
  const std::int64_t heads = sums.values.dim(1);
  const std::int64_t width = sums.values.dim(2);
  return {.out = nullptr,
          .out_row = 0,
          .lse = nullptr,
          .lse_row = 0,
          .values = sums.values.as<float>().data() + head * width,
          .values_row = heads * width,
          .top = sums.top.as<float>().data() + head,
          .total = sums.total.as<float>().data() + head,
          .sums_row = heads,
          .begins = write == Write::kOverwrite};
}

}  // namespace

template <class PartsOf>
void CpuBackend::attend(const HeadRows& q, const KeyRows& keys, const VisibleKeys& visible,
                        float scale, const PartsOf& parts_of) {
  require_heads(q, keys, visible.first);
  const std::vector<Stretch> stretches = stretches_of(visible, q.rows.dim(0));
  std::vector<std::int64_t> starts = {0};  // of the stretches among all tiles of a head
  for (const Stretch& stretch : stretches) {
    starts.push_back(starts.back() + stretch.tiles());
  }
  const std::int64_t scratch_size =
      attention_scratch(most_keys(keys, stretches), q.heads.width, keys.v.heads.width);
  const Tensor scratch = empty(DType::kF32, {threads_, scratch_size});
  const std::int64_t tiles = starts.back();
  with_kernels(q.rows.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    const auto compute = [&](std::int64_t head, const Stretch& stretch, Range part,
                             std::int64_t thread) {
      AttentionHead<A> one = one_head<A>(q, keys, visible, scale, head);
      one.seen = stretch.seen_by(part);
      one.origin = stretch.origin;
      one.fork = stretch.fork;
      one.jump = stretch.jump;
      kernels.attention(one, stretch.rows_of(part), parts_of(head, type),
                        scratch.as<float>().data() + thread * scratch_size);
    };
    share(q.heads.groups * tiles, [&](std::int64_t begin, std::int64_t end, std::int64_t thread) {
      for (std::int64_t i = begin, next = 0; i < end; i = next) {
        const std::int64_t head = i / tiles;
        const std::int64_t tile = i % tiles;
        const auto after = std::upper_bound(starts.begin(), starts.end(), tile);
        const auto number = at(after - starts.begin() - 1);
        next = std::min({end, head * tiles + *after, i + kTilesAtOnce});
        const std::int64_t before = starts[number];
        compute(head, stretches[number], {tile - before, next - head * tiles - before}, thread);
      }
    });
  });
}

void CpuBackend::attention(const HeadRows& q, const KeyRows& keys, const VisibleKeys& visible,
                           float scale, const Tensor& out, const Tensor& lse) {
  attend(q, keys, visible, scale,
         [&](std::int64_t head, auto type) { return results_of<decltype(type)>(out, lse, head); });
}

void CpuBackend::attention_part(const HeadRows& q, const KeyRows& keys, const VisibleKeys& visible,
                                float scale, const AttentionSums& sums, Write write) {
  attend(q, keys, visible, scale,
         [&](std::int64_t head, auto type) { return sums_of<decltype(type)>(sums, write, head); });
}

void CpuBackend::merge_attention(const AttentionSums& more, float scale,
                                 const AttentionSums& sums) {
  const std::int64_t width = sums.values.dim(2);
  share(sums.top.numel(), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    for (std::int64_t i = begin; i < end; ++i) {
      float& top = sums.top.as<float>()[at(i)];
      float& total = sums.total.as<float>()[at(i)];
      const float more_top = more.top.as<float>()[at(i)];
      const float best = std::max(top, more_top);
      const float here = std::exp(scale * (top - best));
      const float there = std::exp(scale * (more_top - best));
      top = best;
      total = total * here + more.total.as<float>()[at(i)] * there;
      float* const values = sums.values.as<float>().data() + i * width;
      const float* const more_values = more.values.as<float>().data() + i * width;
      for (std::int64_t c = 0; c < width; ++c) {
        values[c] = values[c] * here + more_values[c] * there;
      }
    }
  });
}

void CpuBackend::attention_result(const AttentionSums& sums, float scale, const Tensor& out,
                                  const Tensor& lse) {
  const std::int64_t width = sums.values.dim(2);
  with_kernels(out.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(lse.numel(), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      for (std::int64_t i = begin; i < end; ++i) {
        lse.as<float>()[at(i)] =
            kernels.finish_attention(sums.top.as<float>()[at(i)], sums.total.as<float>()[at(i)],
                                     sums.values.as<float>().data() + i * width, scale,
                                     out.as<A>().data() + i * width, width);
      }
    });
  });
}

void CpuBackend::attention_backward(const Tensor& dout, const HeadRows& q, const KeyRows& keys,
                                    const VisibleKeys& visible, float scale, const Tensor& out,
                                    const Tensor& lse, const AttentionGradients& gradients,
                                    Write write) {
  require_heads(q, keys, visible.first);
  require(!visible.fork.defined(), "a gradient through forks");
  const std::int64_t rows = q.rows.dim(0);
  const std::int64_t hd = q.heads.width;
  const std::int64_t vd = keys.v.heads.width;
  const std::int64_t kv_heads = keys.k.heads.groups;
  const std::int64_t padded = padded_head(hd);
  const std::int64_t v_padded = padded_head(vd);
  const std::int64_t group = q.heads.groups / kv_heads;
  const Range all_keys{keys.begin, keys.end()};
  const Range all_queries{0, rows};
  const std::vector<StripRange> strips = strips_of(visible, rows);
  const std::int64_t scratch_size = attention_backward_scratch(rows, hd, vd);
  const Tensor scratch =
      empty(DType::kF32,
            {threads_, scratch_size + (all_keys.end - all_keys.begin) * (padded + v_padded)});
  const bool adds = write == Write::kAdd;
  with_kernels(q.rows.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    // One query head; dq, and dk and dv where they are not null.
    const auto run = [&](std::int64_t head, Range of_keys, Range queries, bool with_dq, float* dk,
                         float* dv, std::int64_t thread) {
      const AttentionGradient<A> gradient{
          .dout = dout.as<A>().data() + head * vd,
          .out = out.as<A>().data() + head * vd,
          .out_stride = q.heads.groups * vd,
          .lse = lse.as<float>().data() + head,
          .lse_stride = q.heads.groups,
          .strips = strips.data(),
          .keys = of_keys,
          .queries = queries,
          .dq = with_dq && !adds ? head_of<A>(gradients.dq, head) : nullptr,
          .dq_sum = with_dq && adds ? head_of<float>(gradients.dq, head) : nullptr,
          .dq_stride = row_of(gradients.dq),
          .dk = dk,
          .dv = dv};
      kernels.attention_backward(one_head<A>(q, keys, visible, scale, head), gradient,
                                 scratch.as<float>().data() + thread * scratch.dim(1));
    };
    // Rows of sums become those of a gradient.
    const auto write_rows = [&](const float* sums, std::int64_t sums_row, const HeadRows& to,
                                std::int64_t kv, Range of_keys) {
      const std::int64_t first = of_keys.begin - keys.begin;
      for (std::int64_t i = 0; i < of_keys.end - of_keys.begin; ++i) {
        const std::int64_t row = (first + i) * row_of(to);
        if (adds) {
          set_.common->add(sums + i * sums_row, head_of<float>(to, kv) + row, to.heads.width);
        } else {
          kernels.from_float(sums + i * sums_row, head_of<A>(to, kv) + row, to.heads.width);
        }
      }
    };
    // dk and dv of some keys, from all query heads that share them.
    const auto run_keys = [&](std::int64_t kv, Range of_keys, bool with_dq, std::int64_t thread) {
      const std::int64_t count = of_keys.end - of_keys.begin;
      float* dk = scratch.as<float>().data() + thread * scratch.dim(1) + scratch_size;
      float* dv = dk + count * padded;
      std::memset(dk, 0, at(count * (padded + v_padded)) * sizeof(float));
      for (std::int64_t head = kv * group; head < (kv + 1) * group; ++head) {
        run(head, of_keys, all_queries, with_dq, dk, dv, thread);
      }
      write_rows(dk, padded, gradients.dk, kv, of_keys);
      write_rows(dv, v_padded, gradients.dv, kv, of_keys);
    };
    if (whole_heads(kv_heads, threads_)) {
      share(kv_heads, [&](std::int64_t begin, std::int64_t end, std::int64_t thread) {
        for (std::int64_t kv = begin; kv < end; ++kv) {
          run_keys(kv, all_keys, true, thread);
        }
      });
      return;
    }
    // Tile i of so many in the order that spreads work.
    const auto tile = [&](std::int64_t i, Range all) {
      const std::int64_t tiles = (all.end - all.begin + kAttentionTile - 1) / kAttentionTile;
      const std::int64_t begin = all.begin + from_both_ends(i % tiles, tiles) * kAttentionTile;
      return Range{begin, std::min(begin + kAttentionTile, all.end)};
    };
    const auto share_tiles = [&](std::int64_t heads, Range all, const auto& work) {
      const std::int64_t tiles = (all.end - all.begin + kAttentionTile - 1) / kAttentionTile;
      share(heads * tiles, [&](std::int64_t begin, std::int64_t end, std::int64_t thread) {
        for (std::int64_t i = begin; i < end; ++i) {
          work(i / tiles, tile(i, all), thread);
        }
      });
    };
    share_tiles(kv_heads, all_keys, [&](std::int64_t kv, Range of_keys, std::int64_t thread) {
      run_keys(kv, of_keys, false, thread);
    });
    share_tiles(q.heads.groups, all_queries,
                [&](std::int64_t head, Range queries, std::int64_t thread) {
                  run(head, all_keys, queries, true, nullptr, nullptr, thread);
                });
  });
}

}  // namespace moesaic::cpu
