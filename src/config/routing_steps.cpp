#include "config/routing_steps.h"

#include <algorithm>
#include <filesystem>

namespace moesaic::config {

bool records_routing(const Trace& trace, std::int64_t step) {
  return std::any_of(trace.routing.begin(), trace.routing.end(), [step](const StepRange& range) {
    return step >= range.first && step <= range.last && (step - range.first) % range.every == 0;
  });
}

std::int64_t routing_steps(const Trace& trace, std::int64_t steps) {
  std::int64_t count = 0;
  for (const StepRange& range : trace.routing) {
    const std::int64_t last = std::min(range.last, steps);
    count += last < range.first ? 0 : (last - range.first) / range.every + 1;
  }
  return std::min(count, steps);
}

std::string routing_path(const Trace& trace) {
  return std::filesystem::path(trace.path).replace_extension(".routing.h5").string();
}

}  // namespace moesaic::config
