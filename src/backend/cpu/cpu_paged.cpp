#include <fmt/format.h>

#include <cstring>

#include "backend/cpu/cpu_backend.h"

namespace moesaic::cpu {
namespace {

static_assert(kPageTokens == kAttentionTile);

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// Neighbouring rows [begin, end) of one run, and where its sequence's pages begin.
struct Piece {
  std::int64_t begin, end, position, first_page;
};

// Calls work(piece) with the pieces of rows [begin, end), in order.
template <class Work>
void for_pieces(const PagedRuns& runs, std::int64_t begin, std::int64_t end, const Work& work) {
  const auto after = std::upper_bound(runs.offsets.begin(), runs.offsets.end(), begin);
  for (auto run = at(after - runs.offsets.begin() - 1); begin < end; ++run) {
    const std::int64_t next = std::min(end, runs.offsets[run + 1]);
    if (begin < next) {
      work(Piece{begin, next, runs.position[run] + begin - runs.offsets[run],
                 runs.page_offsets[run]});
    }
    begin = next;
  }
}

void require_runs(const PagedRuns& runs, std::int64_t rows) {
  require(runs.offsets.size() == runs.position.size() + 1 &&
              runs.page_offsets.size() == runs.offsets.size() && runs.offsets.back() == rows,
          fmt::format("runs of {} rows for {}", runs.offsets.back(), rows));
  for (std::size_t i = 0; i + 1 < runs.offsets.size(); ++i) {
    const std::int64_t end = runs.position[i] + runs.offsets[i + 1] - runs.offsets[i];
    require((runs.page_offsets[i + 1] - runs.page_offsets[i]) * kPageTokens >= end,
            "a run without a page");
  }
}

}  // namespace

void CpuBackend::store_in_pages(const Tensor& rows, const RowGroups& groups, const PagedRuns& runs,
                                const Tensor& pages) {
  require_runs(runs, rows.dim(0));
  require(groups.groups == pages.dim(1) && groups.width == pages.dim(3) &&
              rows.dtype() == pages.dtype(),
          fmt::format("{} groups of {} for pages {}", groups.groups, groups.width,
                      pages.shape().text()));
  const auto element = static_cast<std::int64_t>(size_of(rows.dtype()));
  const std::int64_t bytes = groups.width * element;
  share(rows.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    for_pieces(runs, begin, end, [&](const Piece& piece) {
      for (std::int64_t row = piece.begin; row < piece.end; ++row) {
        const std::int64_t position = piece.position + row - piece.begin;
        const std::int64_t page = runs.pages[at(piece.first_page + position / kPageTokens)];
        for (std::int64_t g = 0; g < groups.groups; ++g) {
          const std::int64_t from = row * rows.dim(1) + groups.first + g * groups.stride;
          const std::int64_t to = (page * groups.groups + g) * kPageTokens + position % kPageTokens;
          std::memcpy(pages.data() + to * bytes, rows.data() + from * element, at(bytes));
        }
      }
    });
  });
}

// Threads share the rows of all key heads; a piece is the rows of a run that a thread has of one.
void CpuBackend::paged_attention(const Tensor& q, const AttentionShape& shape, std::int64_t window,
                                 const PagedRuns& runs, const Tensor& keys, const Tensor& values,
                                 const Tensor& out, const Tensor& lse) {
  const std::int64_t rows = q.dim(0);
  require_runs(runs, rows);
  require(keys.dim(1) == shape.kv_heads && keys.dim(3) == shape.head_dim &&
              q.dim(1) >= shape.heads * shape.head_dim,
          fmt::format("paged attention of {} to {} with {} / {} heads of {}", q.shape().text(),
                      keys.shape().text(), shape.heads, shape.kv_heads, shape.head_dim));
  const Tensor& v = values.defined() ? values : keys;
  const std::int64_t group = shape.heads / shape.kv_heads;
  const std::int64_t scratch_size = paged_scratch(shape.head_dim, shape.v_dim);
  const Tensor scratch = empty(DType::kF32, {threads_, scratch_size});
  with_kernels(q.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    const auto run = [&](std::int64_t head, const Piece& piece, std::int64_t thread) {
      const std::int64_t query = head * group;
      const PagedHead<A> paged{
          .q = q.as<A>().data() + piece.begin * q.dim(1) + query * shape.head_dim,
          .q_stride = q.dim(1),
          .heads = group,
          .keys = keys.as<A>().data() + head * kPageTokens * keys.dim(3),
          .values = v.as<A>().data() + head * kPageTokens * v.dim(3),
          .key_page = keys.dim(1) * kPageTokens * keys.dim(3),
          .key_row = keys.dim(3),
          .value_page = v.dim(1) * kPageTokens * v.dim(3),
          .value_row = v.dim(3),
          .pages = runs.pages.data() + piece.first_page,
          .position = piece.position,
          .window = window,
          .head_dim = shape.head_dim,
          .v_dim = shape.v_dim,
          .scale = shape.scale};
      kernels.paged_attention(
          paged, piece.end - piece.begin,
          out.as<A>().data() + (piece.begin * shape.heads + query) * shape.v_dim,
          shape.heads * shape.v_dim, lse.as<float>().data() + piece.begin * shape.heads + query,
          shape.heads, scratch.as<float>().data() + thread * scratch_size);
    };
    share(shape.kv_heads * rows, [&](std::int64_t begin, std::int64_t end, std::int64_t thread) {
      while (begin < end) {
        const std::int64_t head = begin / rows;
        const std::int64_t next = std::min(end, (head + 1) * rows);
        for_pieces(runs, begin - head * rows, next - head * rows,
                   [&](const Piece& piece) { run(head, piece, thread); });
        begin = next;
      }
    });
  });
}

}  // namespace moesaic::cpu
