#pragma once

#include <cstdint>
#include <vector>

#include "model/context.h"
#include "routing/expert_pool.h"

namespace moesaic::model {

/// How the rows of a dispatch plan travel between the ranks that share out the experts, and how
/// they are grouped where they arrive.
struct Routes {
  std::vector<std::int64_t> send_rows, recv_rows;  // [ranks]; one rank: at most so many
  Tensor offsets;                                  // (local experts + 1) int32 of the grouped rows
  // (R') int32: grouped row i is received row grouped_from[i]. Undefined where rows arrive in
  // groups.
  Tensor grouped_from;
  Tensor received_from;  // its inverse
};

/// The experts of all ranks, in the order in which rows are sent to them.
std::vector<std::int32_t> expert_order(const routing::ExpertPool& expert_pool);

/// Collective over experts: exchanges how many rows of each expert go where. offsets (E + 1) int32
/// of at most `most` rows in expert_order. The host waits for them, unless all experts are here.
Routes plan_routes(Context& ctx, const Tensor& offsets, std::int64_t most,
                   const routing::ExpertPool& expert_pool);

/// Collective over experts: rows in plan order -> rows grouped by local expert. (R, D) -> (R', D)
/// In two halves, so that this rank can compute meanwhile.
comm::Exchange start_dispatch(Context& ctx, const Tensor& rows, const Routes& routes);
Tensor finish_dispatch(Context& ctx, comm::Exchange exchange, const Routes& routes);
/// Collective over experts: the way back, which is also dispatch's backward (and the other way
/// round).
Tensor combine(Context& ctx, const Tensor& grouped, const Routes& routes);

}  // namespace moesaic::model
