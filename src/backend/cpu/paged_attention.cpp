#include <fmt/format.h>
#include <omp.h>

#include <cstring>
#include <span>
#include <vector>

#include "backend/attention_checks.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/seen_range.h"

namespace moesaic::cpu {
namespace {

// Pages of a sequence whose sums are joined as one, from fixed places of it on, so that a row has
// the same bits however threads share its keys.
constexpr std::int64_t kJoinedPages = 16;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// PagedRuns on the host.
struct Runs {
  explicit Runs(const PagedRuns& runs)
      : offsets(runs.offsets.as<std::int32_t>()),
        position(runs.position.as<std::int32_t>()),
        page_offsets(runs.page_offsets.as<std::int32_t>()),
        pages(runs.pages.as<std::int32_t>()) {}

  std::span<const std::int32_t> offsets, position, page_offsets, pages;
};

// Neighbouring rows [begin, end) of one run, and where its sequence's pages begin.
struct Piece {
  std::int64_t begin, end, position, first_page;
};

// Calls work(piece) with the pieces of rows [begin, end), in order.
template <class Work>
void for_pieces(const Runs& runs, std::int64_t begin, std::int64_t end, const Work& work) {
  const auto after = std::upper_bound(runs.offsets.begin(), runs.offsets.end(), begin);
  for (auto run = at(after - runs.offsets.begin() - 1); begin < end; ++run) {
    const std::int64_t next = std::min<std::int64_t>(end, runs.offsets[run + 1]);
    if (begin < next) {
      work(Piece{begin, next, runs.position[run] + begin - runs.offsets[run],
                 runs.page_offsets[run]});
    }
    begin = next;
  }
}

// At most kAttentionTile queries of the rows of a run that read the same key head: those of each
// row after each other; and the pages that they see.
struct QueryTile {
  std::size_t run;
  std::int64_t head;
  Range queries, pages;

  // Its parts are those of the sequence that it sees.
  std::int64_t first_part() const { return pages.begin / kJoinedPages; }
  std::int64_t last_part() const { return (pages.end - 1) / kJoinedPages; }
  Range part(std::int64_t number) const {
    return {std::max(pages.begin, number * kJoinedPages),
            std::min(pages.end, (number + 1) * kJoinedPages)};
  }
  std::int64_t work() const { return (queries.end - queries.begin) * (pages.end - pages.begin); }
};

std::vector<QueryTile> query_tiles(const Runs& runs, std::int64_t heads, std::int64_t group,
                                   const VisibleKeys& visible) {
  std::vector<QueryTile> tiles;
  tiles.reserve(runs.position.size() * at(heads));
  for (std::size_t run = 0; run < runs.position.size(); ++run) {
    const std::int64_t queries = (runs.offsets[run + 1] - runs.offsets[run]) * group;
    const std::size_t before = tiles.size();
    for (std::int64_t begin = 0; begin < queries; begin += kAttentionTile) {
      const std::int64_t end = std::min(begin + kAttentionTile, queries);
      const std::int64_t row = runs.offsets[run];
      const Range seen = seen_range(visible, {row + begin / group, row + (end - 1) / group + 1});
      const Range pages = seen.begin < seen.end
                              ? Range{seen.begin / kPageTokens, (seen.end - 1) / kPageTokens + 1}
                              : Range{0, 0};
      tiles.push_back({run, 0, {begin, end}, pages});
    }
    const std::size_t of_head = tiles.size() - before;
    for (std::int64_t head = 1; head < heads; ++head) {
      for (std::size_t i = 0; i < of_head; ++i) {
        tiles.push_back(tiles[before + i]);
        tiles.back().head = head;
      }
    }
  }
  return tiles;
}

Runs checked(const PagedRuns& given, std::int64_t rows) {
  const Runs runs(given);
  if (runs.offsets.size() != runs.position.size() + 1 ||
      runs.page_offsets.size() != runs.offsets.size() || runs.offsets.back() != rows) {
    throw Error(Exit::kInternal, fmt::format("runs of {} rows for {}", runs.offsets.back(), rows));
  }
  for (std::size_t i = 0; i + 1 < runs.offsets.size(); ++i) {
    const std::int64_t end = runs.position[i] + runs.offsets[i + 1] - runs.offsets[i];
    require((runs.page_offsets[i + 1] - runs.page_offsets[i]) * kPageTokens >= end,
            "a run without a page");
  }
  return runs;
}

// One call of attention to pages; sums: two for each thread.
template <class A>
struct PagedCall {
  const Kernels<A>& kernels;
  const CommonKernels& common;
  const HeadRows& q;
  const KeyPages& from;
  const Runs& runs;
  const VisibleKeys& visible;
  float scale;
  const Tensor &values, &out, &lse, &scratch, &sums;
  int threads;

  std::int64_t group() const { return q.heads.groups / from.keys.dim(1); }
  std::int64_t v_dim() const { return out.dim(2); }

  PagedHead<A> head_of(const QueryTile& tile) const {
    const std::int64_t row = runs.offsets[tile.run];
    const std::int64_t query = tile.head * group();
    const Tensor& keys = from.keys;
    return {
        .q = q.rows.as<A>().data() + row * q.rows.dim(1) + q.heads.first + query * q.heads.stride,
        .q_row = q.rows.dim(1),
        .q_head = q.heads.stride,
        .heads = group(),
        .keys = keys.as<A>().data() + tile.head * kPageTokens * keys.dim(3),
        .values = values.as<A>().data() + tile.head * kPageTokens * values.dim(3),
        .key_page = keys.dim(1) * kPageTokens * keys.dim(3),
        .key_row = keys.dim(3),
        .value_page = values.dim(1) * kPageTokens * values.dim(3),
        .value_row = values.dim(3),
        .pages = runs.pages.data() + runs.page_offsets[tile.run],
        .first = visible.first.as<std::int32_t>().data() + row,
        .last = visible.last.as<std::int32_t>().data() + row,
        .head_dim = q.heads.width,
        .v_dim = v_dim(),
        .scale = scale};
  }
  PagedSums sums_at(std::int64_t thread, std::int64_t i) const {
    float* const sum = sums.as<float>().data() + (2 * thread + i) * sums.dim(2);
    float* const top = sum + kAttentionTile * padded_head(v_dim());
    return {sum, top, top + kAttentionTile};
  }

  void attend(const QueryTile& tile, std::int64_t part, const PagedSums& to) const {
    kernels.paged_attention(head_of(tile), tile.queries, tile.part(part), to,
                            scratch.as<float>().data() + omp_get_thread_num() * scratch.dim(1));
  }
  void join(const QueryTile& tile, const PagedSums& next, const PagedSums& to) const {
    common.join_paged(next, scale, tile.queries.end - tile.queries.begin, v_dim(), to);
  }
  void write(const QueryTile& tile, const PagedSums& to) const {
    const std::int64_t heads = q.heads.groups;
    const std::int64_t first = runs.offsets[tile.run] * heads + tile.head * group();
    kernels.write_paged(head_of(tile), tile.queries, to, out.as<A>().data() + first * v_dim(),
                        heads * v_dim(), lse.as<float>().data() + first, heads);
  }

  // Threads take tiles, which differ by as much as the lengths of their sequences do.
  void share_tiles(const std::vector<QueryTile>& tiles) const {
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (tiles.size() > 1)
    for (const QueryTile& tile : tiles) {
      const PagedSums all = sums_at(omp_get_thread_num(), 0);
      const PagedSums next = sums_at(omp_get_thread_num(), 1);
      attend(tile, tile.first_part(), all);
      for (std::int64_t part = tile.first_part() + 1; part <= tile.last_part(); ++part) {
        attend(tile, part, next);
        join(tile, next, all);
      }
      write(tile, all);
    }
  }

  struct Part {
    const QueryTile& tile;
    std::int64_t number;
  };

  // Joins the sums of a part to those of the parts before it.
  void add(const Part& part, PagedSums& sum, PagedSums& all) const {
    if (part.number == part.tile.first_part()) {
      std::swap(sum, all);
    } else {
      join(part.tile, sum, all);
    }
    if (part.number == part.tile.last_part()) {
      write(part.tile, all);
    }
  }

  // Threads take parts of tiles, which are joined in their order.
  void share_parts(const std::vector<QueryTile>& tiles) const {
    std::vector<Part> parts;
    for (const QueryTile& tile : tiles) {
      for (std::int64_t part = tile.first_part(); part <= tile.last_part(); ++part) {
        parts.push_back({tile, part});
      }
    }
    std::vector<PagedSums> own;
    own.reserve(at(threads));
    for (int thread = 0; thread < threads; ++thread) {
      own.push_back(sums_at(thread, 0));
    }
    PagedSums all = sums_at(0, 1);
#pragma omp parallel for ordered num_threads(threads) schedule(dynamic) if (parts.size() > 1)
    for (const Part& part : parts) {
      PagedSums& sum = own[at(omp_get_thread_num())];
      attend(part.tile, part.number, sum);
#pragma omp ordered
      add(part, sum, all);
    }
  }
};

// Whether some tile is more than half of a thread's share, so that threads would wait for it.
bool is_uneven(const std::vector<QueryTile>& tiles, std::int64_t threads) {
  std::int64_t all = 0;
  std::int64_t most = 0;
  for (const QueryTile& tile : tiles) {
    all += tile.work();
    most = std::max(most, tile.work());
  }
  return 2 * threads * most > all;
}

}  // namespace

void CpuBackend::store_in_pages(const Tensor& rows, const RowGroups& groups, const PagedRuns& runs,
                                const Tensor& pages) {
  const Runs on_host = checked(runs, rows.dim(0));
  require_groups(rows, groups, pages);
  const auto element = static_cast<std::int64_t>(size_of(rows.dtype()));
  const std::int64_t bytes = groups.width * element;
  share(rows.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    for_pieces(on_host, begin, end, [&](const Piece& piece) {
      for (std::int64_t row = piece.begin; row < piece.end; ++row) {
        const std::int64_t position = piece.position + row - piece.begin;
        const std::int64_t page = on_host.pages[at(piece.first_page + position / kPageTokens)];
        for (std::int64_t g = 0; g < groups.groups; ++g) {
          const std::int64_t from = row * rows.dim(1) + groups.first + g * groups.stride;
          const std::int64_t to = (page * groups.groups + g) * kPageTokens + position % kPageTokens;
          std::memcpy(pages.data() + to * bytes, rows.data() + from * element, at(bytes));
        }
      }
    });
  });
}

void CpuBackend::attention(const HeadRows& q, const KeyPages& keys, const VisibleKeys& visible,
                           float scale, const Tensor& out, const Tensor& lse) {
  const Runs runs = checked(keys.runs, q.rows.dim(0));
  require_pages(q, keys);
  const std::int64_t kv_heads = keys.keys.dim(1);
  const std::vector<QueryTile> tiles =
      query_tiles(runs, kv_heads, q.heads.groups / kv_heads, visible);
  const Tensor scratch = empty(DType::kF32, {threads_, paged_scratch(q.heads.width, out.dim(2))});
  const Tensor sums = empty(DType::kF32, {threads_, 2, paged_sums(out.dim(2))});
  with_kernels(q.rows.dtype(), [&](const auto& kernels, auto type) {
    const PagedCall<decltype(type)> call{.kernels = kernels,
                                         .common = *set_.common,
                                         .q = q,
                                         .from = keys,
                                         .runs = runs,
                                         .visible = visible,
                                         .scale = scale,
                                         .values = keys.values.defined() ? keys.values : keys.keys,
                                         .out = out,
                                         .lse = lse,
                                         .scratch = scratch,
                                         .sums = sums,
                                         .threads = threads_};
    if (is_uneven(tiles, threads_)) {
      call.share_parts(tiles);
    } else {
      call.share_tiles(tiles);
    }
  });
}

}  // namespace moesaic::cpu
