#pragma once

#include <cstdint>
#include <vector>

#include "model/context.h"
#include "routing/expert_pool.h"

namespace moesaic::model {

/// How the rows of a dispatch plan travel between the ranks that share out the experts, and how
/// they are grouped where they arrive.
struct Routes {
  std::vector<std::int64_t> send_rows, recv_rows;  // [ranks]
  std::vector<std::int64_t> offsets;               // [local experts + 1] of the grouped rows
  // (R') int32: grouped row i is received row grouped_from[i]. Undefined where rows arrive in
  // groups.
  Tensor grouped_from;
  Tensor received_from;  // its inverse
};

/// Collective over experts: exchanges how many rows of each expert (rows: [E]) go where.
Routes plan_routes(Context& ctx, const std::vector<std::int64_t>& rows,
                   const routing::ExpertPool& expert_pool);

/// Collective over experts: rows in plan order -> rows grouped by local expert. (R, D) -> (R', D)
/// In two halves, so that this rank can compute meanwhile.
comm::Exchange start_dispatch(Context& ctx, const Tensor& rows, const Routes& routes);
Tensor finish_dispatch(Context& ctx, comm::Exchange exchange, const Routes& routes);
/// Collective over experts: the way back, which is also dispatch's backward (and the other way
/// round).
Tensor combine(Context& ctx, const Tensor& grouped, const Routes& routes);

}  // namespace moesaic::model
