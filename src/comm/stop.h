#pragma once

#include <csignal>
#include <vector>

namespace moesaic::comm {

/// While it lives, USR1, USR2, TERM and INT ask the job to stop well: the first one only sets a
/// flag, a second one ends this process at once with 128 + its number. One at a time; make it
/// after MPI_Init, which may install handlers of its own.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();  // puts the former handlers back
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// On this rank alone: ranks must vote.
  bool requested() const;

 private:
  struct Former {
    int number;
    struct sigaction action;
  };
  std::vector<Former> former_;
};

}  // namespace moesaic::comm
