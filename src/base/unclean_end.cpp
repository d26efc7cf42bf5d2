#include "base/unclean_end.h"

#include <atomic>

namespace moesaic {
namespace {

std::atomic<bool> without_clean_up{false};

}  // namespace

void end_without_clean_up() { without_clean_up = true; }

bool ends_without_clean_up() { return without_clean_up; }

}  // namespace moesaic
