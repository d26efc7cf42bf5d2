#pragma once

#include <csignal>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"

namespace moesaic::comm {

/// While it lives, USR1, USR2, TERM and INT ask the job to stop well: the first one only sets a
/// flag, a second one ends this process at once with 128 + its number. One at a time.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();  // puts the former handlers back
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;
  /// After MPI_Init, which may have installed handlers of its own.
  void renew() const;

 private:
  struct Former {
    int number;
    struct sigaction action;
  };
  std::vector<Former> former_;
};

/// Whether this rank was asked to stop, while a StopSignal lives: ranks must vote.
bool stop_requested();
/// The signal that asked this rank to stop, such as SIGTERM; 0: none did.
int stop_signal();
/// "SIGTERM"; "signal N" for those that StopSignal does not catch.
std::string signal_name(int number);
/// Throws kTerminated if it was: within Communicator::together, amid long work of which nothing
/// stays.
void check_stop(std::string_view doing);
/// Collective over world: throws kTerminated on every rank if any was asked to stop.
void agree_to_go_on(std::string_view doing, const Communicator& world);

}  // namespace moesaic::comm
