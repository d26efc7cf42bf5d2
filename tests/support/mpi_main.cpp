// GoogleTest's main for any number of ranks: each rank prints its own failures with its number, a
// test fails everywhere if it fails anywhere, and a lone throw aborts instead of hanging.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "comm/communicator.h"
#include "comm/guard.h"

namespace {

class RankPrinter : public testing::EmptyTestEventListener {
 public:
  explicit RankPrinter(int rank) : rank_(rank) {}

  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (result.failed()) {
      std::fprintf(stderr, "[rank %d] %s:%d: %s\n", rank_,
                   result.file_name() != nullptr ? result.file_name() : "?", result.line_number(),
                   result.summary());
    }
  }

 private:
  int rank_;
};

class AgreeOnFailure : public testing::EmptyTestEventListener {
 public:
  explicit AgreeOnFailure(const moesaic::comm::Communicator& world) : world_(world) {}

  void OnTestEnd(const testing::TestInfo& info) override {
    const bool failed = info.result()->Failed();
    const int anywhere = world_.all_reduce(failed ? 1 : 0, moesaic::comm::Reduce::kMax);
    if (anywhere != 0 && !failed) {
      ADD_FAILURE() << "failed on another rank";
    }
  }

 private:
  const moesaic::comm::Communicator& world_;
};

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  return moesaic::comm::guarded(argc, argv, moesaic::log::Level::kWarn, [] {
    const moesaic::comm::Communicator world = moesaic::comm::Communicator::world();
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    if (world.rank() != 0) {
      delete listeners.Release(listeners.default_result_printer());
      listeners.Append(new RankPrinter(world.rank()));
    }
    if (world.size() > 1) {
      testing::GTEST_FLAG(throw_on_failure) = false;
      testing::GTEST_FLAG(catch_exceptions) = false;
      listeners.Append(new AgreeOnFailure(world));
    }
    return RUN_ALL_TESTS();
  });
}
