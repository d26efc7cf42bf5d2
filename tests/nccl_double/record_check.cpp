// After each test of a program that links the double: could what the ranks have queued deadlock?
#include <gtest/gtest.h>

#include "comm/communicator.h"
#include "nccl_double/streams.h"

namespace moesaic::nccl_double {
namespace {

class RecordCheck : public testing::EmptyTestEventListener {
 public:
  void OnTestEnd(const testing::TestInfo& /*info*/) override {
    const comm::Communicator world = comm::Communicator::world();
    const std::vector<std::string> texts = world.gather(record().text(), 0);
    record() = {};
    std::vector<RankLog> logs;
    for (const std::string& text : texts) {
      logs.push_back(RankLog::parse(text));
    }
    for (const std::string& problem : problems_of(logs)) {
      ADD_FAILURE() << problem;
    }
  }
};

[[maybe_unused]] const bool kListens = [] {
  testing::UnitTest::GetInstance()->listeners().Append(new RecordCheck);
  return true;
}();

}  // namespace
}  // namespace moesaic::nccl_double
