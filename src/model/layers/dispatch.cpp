#include "model/layers/dispatch.h"

#include <numeric>
#include <span>
#include <utility>

#include "backend/transfer.h"

namespace moesaic::model {
namespace {

Tensor reordered(Context& ctx, const Tensor& rows, const Tensor& index) {
  if (!index.defined()) {
    return rows;
  }
  Tensor result = ctx.empty(rows.dtype(), rows.shape());
  ctx.backend.gather_rows(rows, index, result);
  return result;
}

}  // namespace

std::vector<std::int32_t> expert_order(const routing::ExpertPool& expert_pool) {
  std::vector<std::int32_t> order;
  for (const auto& experts : expert_pool.of_rank) {
    order.insert(order.end(), experts.begin(), experts.end());
  }
  return order;
}

Routes plan_routes(Context& ctx, const Tensor& offsets, std::int64_t most,
                   const routing::ExpertPool& expert_pool) {
  const comm::Communicator& group = ctx.experts.group();
  const auto ranks = static_cast<std::size_t>(group.size());
  Routes routes;
  if (ranks == 1) {
    routes.send_rows = routes.recv_rows = {most};
    routes.offsets = offsets;
    return routes;
  }
  const std::size_t local = expert_pool.of_rank[static_cast<std::size_t>(group.rank())].size();
  const std::vector<std::int32_t> begins = to_host_i32(ctx.backend, offsets);
  std::vector<std::vector<std::int64_t>> send(ranks);
  std::size_t place = 0;
  for (std::size_t r = 0; r < ranks; ++r) {
    for (std::size_t i = 0; i < expert_pool.of_rank[r].size(); ++i, ++place) {
      send[r].push_back(begins[place + 1] - begins[place]);
    }
    routes.send_rows.push_back(std::accumulate(send[r].begin(), send[r].end(), std::int64_t{0}));
  }
  const auto received = group.all_to_all(send);  // [source][local expert]

  // Where each (source, expert) run begins among the received rows.
  std::vector<std::vector<std::int32_t>> begin(ranks);
  std::int32_t total = 0;
  for (std::size_t r = 0; r < ranks; ++r) {
    const std::int32_t first = total;
    for (const std::int64_t count : received[r]) {
      begin[r].push_back(total);
      total += static_cast<std::int32_t>(count);
    }
    routes.recv_rows.push_back(total - first);
  }
  std::vector<std::int32_t> grouped_from;
  std::vector<std::int32_t> received_from(static_cast<std::size_t>(total));
  std::vector<std::int32_t> grouped_offsets = {0};
  for (std::size_t e = 0; e < local; ++e) {
    for (std::size_t r = 0; r < ranks; ++r) {
      for (std::int64_t i = 0; i < received[r][e]; ++i) {
        const std::int32_t from = begin[r][e] + static_cast<std::int32_t>(i);
        received_from[static_cast<std::size_t>(from)] =
            static_cast<std::int32_t>(grouped_from.size());
        grouped_from.push_back(from);
      }
    }
    grouped_offsets.push_back(static_cast<std::int32_t>(grouped_from.size()));
  }
  routes.offsets = to_device(ctx.backend, grouped_offsets, {std::ssize(grouped_offsets)});
  if (local == 1) {
    return routes;  // rows arrive in groups
  }
  routes.grouped_from = to_device(ctx.backend, grouped_from, {total});
  routes.received_from = to_device(ctx.backend, received_from, {total});
  return routes;
}

comm::Exchange start_dispatch(Context& ctx, const Tensor& rows, const Routes& routes) {
  return ctx.experts.start_all_to_all(rows, routes.send_rows, routes.recv_rows);
}

Tensor finish_dispatch(Context& ctx, comm::Exchange exchange, const Routes& routes) {
  return reordered(ctx, ctx.experts.finish(std::move(exchange)), routes.grouped_from);
}

Tensor combine(Context& ctx, const Tensor& grouped, const Routes& routes) {
  const Tensor received = reordered(ctx, grouped, routes.received_from);
  return ctx.experts.all_to_all(received, routes.recv_rows, routes.send_rows);
}

}  // namespace moesaic::model
