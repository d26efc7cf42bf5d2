#include "config/wall_time.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>

namespace moesaic::config {
namespace {

using Clock = std::chrono::steady_clock;
const Clock::time_point program_start = Clock::now();

}  // namespace

double wall_seconds(const Run& run) {
  if (run.max_wall >= 0.0) {
    const double gone = std::chrono::duration<double>(Clock::now() - program_start).count();
    return std::max(0.0, run.max_wall - gone);
  }
  const char* const end = std::getenv("SLURM_JOB_END_TIME");
  if (end == nullptr) {
    return -1.0;
  }
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  return std::max(0.0, std::strtod(end, nullptr) - now);
}

}  // namespace moesaic::config
