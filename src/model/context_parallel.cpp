#include "model/context_parallel.h"

#include <deque>
#include <numeric>
#include <optional>

#include "backend/transfer.h"
#include "data/context_chunks.h"

namespace moesaic::model {
namespace {

int ranks_of(const Context& ctx) { return ctx.cp.group().size(); }

// The rows of a rank among those of the whole micro-batch.
std::vector<Slice> rows_of_rank(const Context& ctx, int rank) {
  return data::chunks_of_rank(ctx.batch.share->chunks, rank, ranks_of(ctx));
}

// Keys and values of a chunk side by side: (rows, Hkv hd + Hkv vd).
struct ChunkShape {
  const AttentionShape& heads;

  std::int64_t keys() const { return heads.kv_heads * heads.head_dim; }
  std::int64_t width() const { return keys() + heads.kv_heads * heads.v_dim; }
  RowGroups k() const { return {0, heads.kv_heads, heads.head_dim, heads.head_dim}; }
  RowGroups v() const { return {keys(), heads.kv_heads, heads.v_dim, heads.v_dim}; }
};

// The chunks whose keys this rank's rows see, one after the other in order of position: its own
// from where they lie, others' as they arrive, the next one being on its way meanwhile.
class Chunks {
 public:
  // Sends the own chunks to those who see them. Collective over cp, as going through them is.
  Chunks(Context& ctx, const Tensor& qkv, const AttentionShape& shape, const SeenKeys& seen)
      : ctx_(ctx), qkv_(qkv), shape_(shape), seen_(seen) {
    const auto& chunks = ctx.batch.share->chunks;
    for (std::size_t c = 0; c < chunks.size(); ++c) {
      const std::vector<int>& readers = seen.readers[c];
      if (owner(c) == rank() && readers.size() > 1) {
        send(c);
      }
      if (std::find(readers.begin(), readers.end(), rank()) != readers.end()) {
        numbers_.push_back(c);
      }
    }
  }

  // use(number, keys) for each chunk.
  template <class Use>
  void each(const Use& use) {
    for (std::size_t i = 0; i < numbers_.size(); ++i) {
      while (started_ < numbers_.size() && (started_ <= i || arriving_.size() < 2)) {
        start_receive(numbers_[started_++]);
      }
      use(numbers_[i], take(numbers_[i]));
      ctx_.cp.progress();
    }
  }

  // Keys and values go one way, gradients the other: each between two ranks in the order of chunks.
  static int tag(std::size_t c) { return 2 * static_cast<int>(c); }
  static int gradient_tag(std::size_t c) { return 2 * static_cast<int>(c) + 1; }
  bool is_own(std::size_t c) const { return owner(c) == rank(); }
  int owner(std::size_t c) const {
    return data::context_owner(static_cast<std::int64_t>(c), ranks_of(ctx_));
  }
  int rank() const { return ctx_.cp.group().rank(); }
  Slice rows(std::size_t c) const { return ctx_.batch.share->chunks[c]; }
  // Keys and values of an own chunk in a fused tensor of the own rows.
  KeyRows own_keys(const Tensor& fused, std::size_t c) const {
    KeyRows keys = shape_.keys(fused.rows(first_row(c), rows(c).count));
    keys.begin = rows(c).begin;
    return keys;
  }

 private:
  // Where an own chunk begins among the own rows.
  std::int64_t first_row(std::size_t c) const {
    std::int64_t first = 0;
    for (const Slice own : ctx_.batch.share->own) {
      if (own.begin == rows(c).begin) {
        break;
      }
      first += own.count;
    }
    return first;
  }

  void send(std::size_t c) {
    const ChunkShape chunk{shape_};
    const KeyRows own = own_keys(qkv_, c);
    const Tensor packed = ctx_.empty(qkv_.dtype(), {rows(c).count, chunk.width()});
    ctx_.backend.copy_groups(own.k.rows, own.k.heads, packed, chunk.k(), Write::kOverwrite);
    ctx_.backend.copy_groups(own.v.rows, own.v.heads, packed, chunk.v(), Write::kOverwrite);
    for (const int reader : seen_.readers[c]) {
      if (reader != rank()) {
        ctx_.cp.start_send(packed, reader, tag(c));
      }
    }
  }

  void start_receive(std::size_t c) {
    if (!is_own(c)) {
      const Tensor to = ctx_.empty(qkv_.dtype(), {rows(c).count, ChunkShape{shape_}.width()});
      arriving_.push_back(ctx_.cp.start_receive(to, owner(c), tag(c)));
    }
  }

  KeyRows take(std::size_t c) {
    if (is_own(c)) {
      return own_keys(qkv_, c);
    }
    const ChunkShape chunk{shape_};
    const Tensor arrived = arriving_.front().tensor;
    ctx_.cp.finish(std::move(arriving_.front()));
    arriving_.pop_front();
    return {{arrived, chunk.k()}, {arrived, chunk.v()}, rows(c).begin};
  }

  Context& ctx_;
  const Tensor& qkv_;
  const AttentionShape& shape_;
  const SeenKeys& seen_;
  std::vector<std::size_t> numbers_;  // of the chunks that are seen
  std::size_t started_ = 0;           // of these
  std::deque<comm::Message> arriving_;
};

}  // namespace

std::shared_ptr<const ContextShare> share_context(const Context& ctx,
                                                  const data::MicroBatch& batch) {
  auto share = std::make_shared<ContextShare>();
  if (ranks_of(ctx) == 1) {
    share->own = share->chunks = {{0, batch.size()}};
    return share;
  }
  const std::vector<std::int32_t> origins =
      batch.key_runs.empty() ? std::vector<std::int32_t>() : data::key_ranges(batch, 0).origin;
  share->chunks = data::context_chunks(batch.size(), ranks_of(ctx), origins);
  share->own = data::chunks_of_rank(share->chunks, ctx.cp.group().rank(), ranks_of(ctx));
  share->rows = data::rows_of(batch, share->own);
  return share;
}

SeenKeys seen_keys(const Context& ctx, std::int64_t window) {
  const data::KeyRanges ranges = data::key_ranges(*ctx.batch.whole, window);
  if (ranks_of(ctx) == 1) {
    return {.window = window, .visible = upload(ctx.backend, ranges), .readers = {}};
  }
  const ContextShare& share = *ctx.batch.share;
  return {.window = window,
          .visible = upload(ctx.backend, data::rows_of(ranges, share.own)),
          .readers = data::context_readers(ranges, share.chunks, ranks_of(ctx))};
}

const SeenKeys& keys_in(Context& ctx, std::int64_t window) {
  DeviceBatch& batch = ctx.batch.device;
  if (window == 0) {
    return batch.keys;
  }
  if (batch.windowed.window != window) {
    batch.windowed = seen_keys(ctx, window);
  }
  return batch.windowed;
}

std::vector<Slice> in_whole(const Context& ctx, Slice own) {
  std::vector<Slice> rows;
  std::int64_t first = 0;
  for (const Slice chunk : ctx.batch.share->own) {
    const Slice part = overlap(own, {first, chunk.count});
    if (part.count > 0) {
      rows.push_back({chunk.begin + part.begin - first, part.count});
    }
    first += chunk.count;
  }
  return rows;
}

template <class T>
std::vector<T> of_all_rows(const Context& ctx, std::vector<T> own, std::int64_t width) {
  if (ranks_of(ctx) == 1) {
    return own;
  }
  const std::vector<T> by_rank = ctx.cp.group().all_gather(std::span<const T>(own));
  std::vector<T> whole(by_rank.size());
  auto from = by_rank.begin();
  for (int rank = 0; rank < ranks_of(ctx); ++rank) {
    for (const Slice rows : rows_of_rank(ctx, rank)) {
      std::copy_n(from, rows.count * width, whole.begin() + rows.begin * width);
      from += rows.count * width;
    }
  }
  return whole;
}

template std::vector<std::int32_t> of_all_rows(const Context&, std::vector<std::int32_t>,
                                               std::int64_t);
template std::vector<float> of_all_rows(const Context&, std::vector<float>, std::int64_t);

Tensor whole_rows(Context& ctx, const Tensor& own) {
  if (ranks_of(ctx) == 1) {
    return own;
  }
  std::vector<std::int64_t> counts;
  std::vector<std::int32_t> from(static_cast<std::size_t>(ctx.batch.whole->size()));
  for (std::int32_t rank = 0, next = 0; rank < ranks_of(ctx); ++rank) {
    counts.push_back(0);
    for (const Slice rows : rows_of_rank(ctx, rank)) {
      std::iota(from.begin() + rows.begin, from.begin() + rows.end(), next);
      next += static_cast<std::int32_t>(rows.count);
      counts.back() += rows.count;
    }
  }
  const Tensor by_rank = ctx.cp.all_gather(own, counts);
  Tensor whole = ctx.empty(own.dtype(), by_rank.shape());
  ctx.backend.gather_rows(by_rank, to_device(ctx.backend, from, {std::ssize(from)}), whole);
  return whole;
}

Tensor picked_rows(Context& ctx, const Tensor& x, const std::vector<Slice>& rows) {
  if (rows.size() == 1) {
    return x.rows(rows.front().begin, rows.front().count);
  }
  std::vector<std::int32_t> index;
  for (const Slice slice : rows) {
    for (std::int64_t row = slice.begin; row < slice.end(); ++row) {
      index.push_back(static_cast<std::int32_t>(row));
    }
  }
  Tensor picked = ctx.empty(x.dtype(), {std::ssize(index), x.dim(1)});
  ctx.backend.gather_rows(x, to_device(ctx.backend, index, {std::ssize(index)}), picked);
  return picked;
}

void attend_to_context(Context& ctx, const Tensor& qkv, const AttentionShape& shape,
                       std::int64_t window, const Tensor& out, const Tensor& lse) {
  const SeenKeys& seen = keys_in(ctx, window);
  if (ranks_of(ctx) == 1) {
    ctx.backend.attention(shape.queries(qkv), shape.keys(qkv), seen.visible, shape.scale, out, lse);
    return;
  }
  const AttentionSums sums{.values = ctx.empty(DType::kF32, out.shape()),
                           .top = ctx.empty(DType::kF32, lse.shape()),
                           .total = ctx.empty(DType::kF32, lse.shape())};
  Write write = Write::kOverwrite;
  Chunks(ctx, qkv, shape, seen).each([&](std::size_t, const KeyRows& keys) {
    ctx.backend.attention_part(shape.queries(qkv), keys, seen.visible, shape.scale, sums, write);
    write = Write::kAdd;
  });
  ctx.backend.attention_result(sums, shape.scale, out, lse);
  ctx.cp.finish();
}

void attend_to_context_backward(Context& ctx, const Tensor& dout, const Tensor& qkv,
                                const AttentionShape& shape, std::int64_t window, const Tensor& out,
                                const Tensor& lse, const Tensor& dqkv) {
  const SeenKeys& seen = keys_in(ctx, window);
  if (ranks_of(ctx) == 1) {
    ctx.backend.attention_backward(dout, shape.queries(qkv), shape.keys(qkv), seen.visible,
                                   shape.scale, out, lse, shape.gradients(dqkv), Write::kOverwrite);
    return;
  }
  // fp32, as they are sums over chunks, and over ranks.
  const Tensor sums = ctx.zeros(DType::kF32, dqkv.shape());
  const ChunkShape chunk{shape};
  Chunks chunks(ctx, qkv, shape, seen);
  // Adds what other ranks have of the gradients of an own chunk.
  const auto collect = [&](std::size_t c) {
    const KeyRows own = chunks.own_keys(sums, c);
    for (const int reader : seen.readers[c]) {
      if (reader != chunks.rank()) {
        const Tensor theirs = ctx.empty(DType::kF32, {chunks.rows(c).count, chunk.width()});
        ctx.cp.receive(theirs, reader, Chunks::gradient_tag(c));
        ctx.backend.copy_groups(theirs, chunk.k(), own.k.rows, own.k.heads, Write::kAdd);
        ctx.backend.copy_groups(theirs, chunk.v(), own.v.rows, own.v.heads, Write::kAdd);
      }
    }
  };
  // Those of an own chunk are collected one chunk later, when the others have most likely come
  // past it: nobody waits long, and few of these sums exist at a time. No rank waits for one that
  // waits for it, as what is waited for was made at an earlier chunk.
  std::optional<std::size_t> waiting;
  chunks.each([&](std::size_t c, const KeyRows& keys) {
    AttentionGradients to = shape.gradients(sums);
    Tensor sent;
    if (chunks.is_own(c)) {
      const KeyRows own = chunks.own_keys(sums, c);
      to.dk = own.k;
      to.dv = own.v;
    } else {
      sent = ctx.zeros(DType::kF32, {chunks.rows(c).count, chunk.width()});
      to.dk = {sent, chunk.k()};
      to.dv = {sent, chunk.v()};
    }
    ctx.backend.attention_backward(dout, shape.queries(qkv), keys, seen.visible, shape.scale, out,
                                   lse, to, Write::kAdd);
    if (sent.defined()) {
      ctx.cp.start_send(sent, chunks.owner(c), Chunks::gradient_tag(c));
    }
    if (waiting) {
      collect(*waiting);
    }
    waiting = chunks.is_own(c) ? std::optional(c) : std::nullopt;
  });
  if (waiting) {
    collect(*waiting);
  }
  ctx.backend.convert(sums, dqkv);
  ctx.cp.finish();
}

}  // namespace moesaic::model
