#include <fmt/format.h>
#include <omp.h>

#include <cstring>
#include <vector>

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

// At most kAttentionTile queries of the rows of a run that read the same key head: those of each
// row after each other.
struct QueryTile {
  std::size_t run;
  std::int64_t head;
  Range queries;
};

std::vector<QueryTile> query_tiles(const PagedRuns& runs, std::int64_t heads, std::int64_t group) {
  std::vector<QueryTile> tiles;
  for (std::size_t run = 0; run < runs.position.size(); ++run) {
    const std::int64_t queries = (runs.offsets[run + 1] - runs.offsets[run]) * group;
    for (std::int64_t head = 0; head < heads; ++head) {
      for (std::int64_t begin = 0; begin < queries; begin += kAttentionTile) {
        tiles.push_back({run, head, {begin, std::min(begin + kAttentionTile, queries)}});
      }
    }
  }
  return tiles;
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

void CpuBackend::paged_attention(const Tensor& q, const AttentionShape& shape, std::int64_t window,
                                 const PagedRuns& runs, const Tensor& keys, const Tensor& values,
                                 const Tensor& out, const Tensor& lse) {
  require_runs(runs, q.dim(0));
  require(keys.dim(1) == shape.kv_heads && keys.dim(3) == shape.head_dim &&
              q.dim(1) >= shape.heads * shape.head_dim,
          fmt::format("paged attention of {} to {} with {} / {} heads of {}", q.shape().text(),
                      keys.shape().text(), shape.heads, shape.kv_heads, shape.head_dim));
  const Tensor& v = values.defined() ? values : keys;
  const std::int64_t group = shape.heads / shape.kv_heads;
  const std::vector<QueryTile> tiles = query_tiles(runs, shape.kv_heads, group);
  const std::int64_t scratch_size = paged_scratch(shape.head_dim, shape.v_dim);
  const Tensor scratch = empty(DType::kF32, {threads_, scratch_size});
  with_kernels(q.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    const auto run = [&](const QueryTile& tile, std::int64_t thread) {
      const std::int64_t row = runs.offsets[tile.run];
      const std::int64_t query = tile.head * group;
      const PagedHead<A> paged{.q = q.as<A>().data() + row * q.dim(1) + query * shape.head_dim,
                               .q_stride = q.dim(1),
                               .heads = group,
                               .keys = keys.as<A>().data() + tile.head * kPageTokens * keys.dim(3),
                               .values = v.as<A>().data() + tile.head * kPageTokens * v.dim(3),
                               .key_page = keys.dim(1) * kPageTokens * keys.dim(3),
                               .key_row = keys.dim(3),
                               .value_page = v.dim(1) * kPageTokens * v.dim(3),
                               .value_row = v.dim(3),
                               .pages = runs.pages.data() + runs.page_offsets[tile.run],
                               .position = runs.position[tile.run],
                               .window = window,
                               .head_dim = shape.head_dim,
                               .v_dim = shape.v_dim,
                               .scale = shape.scale};
      kernels.paged_attention(
          paged, tile.queries, out.as<A>().data() + (row * shape.heads + query) * shape.v_dim,
          shape.heads * shape.v_dim, lse.as<float>().data() + row * shape.heads + query,
          shape.heads, scratch.as<float>().data() + thread * scratch_size);
    };
    // Tiles differ by as much as the lengths of their sequences do.
#pragma omp parallel for num_threads(threads_) schedule(dynamic) if (tiles.size() > 1)
    for (const QueryTile& tile : tiles) {
      run(tile, omp_get_thread_num());
    }
  });
}

}  // namespace moesaic::cpu
