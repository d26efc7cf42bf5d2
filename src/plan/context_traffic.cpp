#include "plan/context_traffic.h"

#include <algorithm>
#include <vector>

#include "base/share.h"
#include "config/layers.h"
#include "data/context_chunks.h"
#include "plan/numbers.h"

namespace moesaic::plan {
namespace {

int ranks_of(const Layout& layout) { return static_cast<int>(layout.cp); }

std::vector<Slice> chunks_of(const Layout& layout, double rows) {
  return data::context_chunks(static_cast<std::int64_t>(rows), ranks_of(layout));
}

/// Numbers of one row in the keys and values of a rank. Latent attention makes those of each query
/// head.
double numbers_of_row(const config::Model& m, const Layout& layout) {
  const std::int64_t heads =
      config::is_latent(m) ? m.heads / layout.tp : kv_heads_of_rank(m.kv_heads, layout.tp);
  return real(heads * (config::key_width(m) + config::value_width(m)));
}

/// Rows that one rank of cp sends to others: its chunks, and gradients of theirs.
struct SentRows {
  double own = 0.0, gradients = 0.0;
};

/// By rank. One that has chunk `last` as its last one needs all before it.
std::vector<SentRows> sent_over(const std::vector<Slice>& chunks, int ranks) {
  std::vector<std::int64_t> last(static_cast<std::size_t>(ranks), -1);
  for (std::int64_t c = 0; c < std::ssize(chunks); ++c) {
    last[static_cast<std::size_t>(data::context_owner(c, ranks))] = c;
  }
  std::vector<SentRows> sent(last.size());
  for (std::int64_t c = 0; c < std::ssize(chunks); ++c) {
    const auto owner = static_cast<std::size_t>(data::context_owner(c, ranks));
    const double rows = real(chunks[static_cast<std::size_t>(c)].count);
    for (std::size_t rank = 0; rank < last.size(); ++rank) {
      if (rank != owner && last[rank] > c) {
        sent[owner].own += rows;
        sent[rank].gradients += rows;
      }
    }
  }
  return sent;
}

}  // namespace

double own_rows(const Layout& layout, double rows) {
  return real(data::most_context_rows(static_cast<std::int64_t>(rows), ranks_of(layout)));
}

double context_buffers(const config::Config& config, const Layout& layout, double rows,
                       bool training) {
  if (layout.cp == 1) {
    return 0.0;
  }
  const config::Model& m = config.model;
  std::int64_t longest = 0;
  for (const Slice chunk : chunks_of(layout, rows)) {
    longest = std::max(longest, chunk.count);
  }
  const double heads = real(m.heads) / real(layout.tp);
  const double own = own_rows(layout, rows);
  const double kv = numbers_of_row(m, layout);
  const double forward = own * heads * (real(config::value_width(m)) + 2.0);
  const double backward =
      own * (heads * real(config::key_width(m)) + kv) + 3.0 * real(longest) * kv;
  return 2.0 * compute_width(config) * real(longest) * kv +
         kFp32 * (training ? std::max(forward, backward) : forward);
}

double context_traffic(const config::Config& config, const Layout& layout, double rows) {
  const double passes = layout.recompute ? 3.0 : 2.0;
  double most = 0.0;
  for (const SentRows& sent : sent_over(chunks_of(layout, rows), ranks_of(layout))) {
    most = std::max(most, passes * compute_width(config) * sent.own + kFp32 * sent.gradients);
  }
  return most * numbers_of_row(config.model, layout);
}

}  // namespace moesaic::plan
