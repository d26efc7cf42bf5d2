#pragma once

#include <string>

#include "base/log.h"
#include "base/timer.h"

namespace moesaic {

/// A progress line that is not written too often: five times a second on a terminal, else every ten
/// seconds.
class ProgressLine {
 public:
  void show(const std::string& text) {
    if (timer_.seconds() >= (log::is_terminal() ? 0.2 : 10.0)) {
      log::progress(text, text);
      timer_.restart();
    }
  }

 private:
  Timer timer_;
};

}  // namespace moesaic
