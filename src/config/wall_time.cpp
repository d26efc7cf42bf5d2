#include "config/wall_time.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>

namespace moesaic::config {

double wall_seconds(const Run& run) {
  if (run.max_wall >= 0.0) {
    return run.max_wall;
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
