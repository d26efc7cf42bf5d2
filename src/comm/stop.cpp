#include "comm/stop.h"

#include <unistd.h>

namespace moesaic::comm {
namespace {

// A handler may touch nothing else.
volatile std::sig_atomic_t stop_requested = 0;

void on_signal(int number) {
  if (stop_requested != 0) {
    _exit(128 + number);
  }
  stop_requested = 1;
}

}  // namespace

StopSignal::StopSignal() {
  stop_requested = 0;
  for (const int number : {SIGUSR1, SIGUSR2, SIGTERM, SIGINT}) {
    struct sigaction action {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;  // reads and writes in progress go on
    sigemptyset(&action.sa_mask);
    Former former{number, {}};
    sigaction(number, &action, &former.action);
    former_.push_back(former);
  }
}

StopSignal::~StopSignal() {
  for (const Former& former : former_) {
    sigaction(former.number, &former.action, nullptr);
  }
}

bool StopSignal::requested() const { return stop_requested != 0; }

}  // namespace moesaic::comm
