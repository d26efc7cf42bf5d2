#include "comm/stop.h"

#include <fmt/format.h>
#include <unistd.h>

#include "base/error.h"

namespace moesaic::comm {
namespace {

// A handler may touch nothing else.
volatile std::sig_atomic_t asked = 0;  // the signal's number

void on_signal(int number) {
  if (asked != 0) {
    _exit(128 + number);
  }
  asked = number;
}

}  // namespace

StopSignal::StopSignal() {
  asked = 0;
  for (const int number : {SIGUSR1, SIGUSR2, SIGTERM, SIGINT}) {
    Former former{number, {}};
    sigaction(number, nullptr, &former.action);
    former_.push_back(former);
  }
  renew();
}

void StopSignal::renew() const {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;  // reads and writes in progress go on
  sigemptyset(&action.sa_mask);
  for (const Former& former : former_) {
    sigaction(former.number, &action, nullptr);
  }
}

StopSignal::~StopSignal() {
  for (const Former& former : former_) {
    sigaction(former.number, &former.action, nullptr);
  }
}

bool stop_requested() { return asked != 0; }

int stop_signal() { return asked; }

std::string signal_name(int number) {
  switch (number) {
    case SIGUSR1:
      return "SIGUSR1";
    case SIGUSR2:
      return "SIGUSR2";
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    default:
      return fmt::format("signal {}", number);
  }
}

void check_stop(std::string_view doing) {
  if (stop_requested()) {
    throw Error(Exit::kTerminated, fmt::format("asked to stop while {}: nothing was saved", doing));
  }
}

void agree_to_go_on(std::string_view doing, const Communicator& world) {
  world.together(doing, [&] { check_stop(doing); });
}

}  // namespace moesaic::comm
