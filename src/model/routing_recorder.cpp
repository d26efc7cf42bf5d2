#include "model/routing_recorder.h"

#include "backend/transfer.h"
#include "model/context.h"

namespace moesaic::model {
namespace {

// Waits for the choices. Without a plan the host makes it again.
void record(const RouteEvent& event, std::vector<routing::RoutedRows>& routed) {
  if (event.choice.numel() == 0 || !event.device.counts) {
    return;
  }
  HostCopies copies;
  copies.add(event.choice);
  copies.add(event.weight);
  copies.fetch(event.device.backend);
  const std::span<const std::int32_t> choice = copies.at<std::int32_t>(0);
  const std::span<const float> weight = copies.at<float>(1);
  const routing::DispatchPlan plan =
      event.plan != nullptr ? *event.plan
                            : routing::plan_dispatch({event.choice.dim(1), choice, weight, {}},
                                                     event.expert_pool, event.rule);
  routing::RoutedRows& rows = routed.emplace_back();
  rows.layer = event.moe_layer;
  rows.first = event.batch.first;
  rows.chosen.assign(choice.begin(), choice.end());
  rows.target.assign(plan.target.begin(), plan.target.end());
  rows.weight.assign(weight.begin(), weight.end());
  for (const routing::DispatchOutcome outcome : plan.outcome) {
    rows.fate.push_back(static_cast<std::uint8_t>(outcome));
  }
}

}  // namespace

Observer routing_recorder(std::vector<routing::RoutedRows>& routed) {
  return {.on_route = [&routed](const RouteEvent& event) { record(event, routed); }};
}

}  // namespace moesaic::model
