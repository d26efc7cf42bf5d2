#include "model/routing_recorder.h"

#include "model/context.h"

namespace moesaic::model {
namespace {

void record(const RouteEvent& event, std::vector<routing::RoutedRows>& routed) {
  if (event.choice.empty() || !event.device.counts) {
    return;
  }
  routing::RoutedRows& rows = routed.emplace_back();
  rows.layer = event.moe_layer;
  rows.first = event.batch.first;
  rows.chosen.assign(event.choice.begin(), event.choice.end());
  rows.target.assign(event.plan.target.begin(), event.plan.target.end());
  rows.weight.assign(event.weight.begin(), event.weight.end());
  for (const routing::DispatchOutcome outcome : event.plan.outcome) {
    rows.fate.push_back(static_cast<std::uint8_t>(outcome));
  }
}

}  // namespace

Observer routing_recorder(std::vector<routing::RoutedRows>& routed) {
  return {.on_route = [&routed](const RouteEvent& event) { record(event, routed); }};
}

}  // namespace moesaic::model
