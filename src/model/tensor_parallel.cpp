#include "model/tensor_parallel.h"

namespace moesaic::model {
namespace {

std::vector<std::int64_t> row_counts(const Context& ctx) {
  const int ranks = ctx.tp.group().size();
  std::vector<std::int64_t> counts(static_cast<std::size_t>(ranks));
  for (int r = 0; r < ranks; ++r) {
    counts[static_cast<std::size_t>(r)] = share_of(ctx.batch.host->size(), r, ranks).count;
  }
  return counts;
}

}  // namespace

Slice own_rows(const Context& ctx) {
  return share_of(ctx.batch.host->size(), ctx.tp.group().rank(), ctx.tp.group().size());
}

Tensor all_rows(Context& ctx, const Tensor& outside) {
  return ctx.sequence ? gathered_rows(ctx, outside) : outside;
}

Tensor gathered_rows(Context& ctx, const Tensor& own) {
  return ctx.tp.all_gather(own, row_counts(ctx));
}

Tensor sum_rows(Context& ctx, const Tensor& term) {
  if (ctx.sequence) {
    return ctx.tp.reduce_scatter(term, row_counts(ctx));
  }
  ctx.tp.all_reduce_sum(term);
  return term;
}

}  // namespace moesaic::model
