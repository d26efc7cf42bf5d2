#include "comm/stop.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace moesaic::comm {
namespace {

// The first signal of each kind only asks; the former handler comes back at the end.
TEST(StopSignal, FirstAsks) {
  for (const int number : {SIGUSR1, SIGUSR2, SIGTERM, SIGINT}) {
    std::signal(number, SIG_IGN);
    {
      const StopSignal stop;
      EXPECT_FALSE(stop_requested());
      std::raise(number);
      EXPECT_TRUE(stop_requested());
    }
    EXPECT_EQ(std::signal(number, SIG_DFL), SIG_IGN);
  }
}

// A second signal ends the process at once, with the code that shells give to it.
TEST(StopSignal, SecondEnds) {
  const pid_t child = fork();
  if (child == 0) {
    const StopSignal stop;
    std::raise(SIGUSR1);
    std::raise(SIGTERM);
    _exit(1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 128 + SIGTERM);
}

}  // namespace
}  // namespace moesaic::comm
