#include "comm/own_gpus.h"

#include <gtest/gtest.h>

namespace moesaic::comm {
namespace {

TEST(OwnGpus, RanksOfAHostTakeThemInTurn) {
  EXPECT_EQ(gpu_of_rank(0, 4), 0);
  EXPECT_EQ(gpu_of_rank(3, 4), 3);
  EXPECT_EQ(gpu_of_rank(3, 1), 0);  // Slurm shows each rank its own
  EXPECT_EQ(gpu_of_rank(5, 4), 1);
  EXPECT_THROW(gpu_of_rank(0, 0), Error);
}

TEST(OwnGpus, TheFirstTwoThatShareOne) {
  EXPECT_EQ(sharing_ranks({"a", "b", "c"}), std::pair(-1, -1));
  EXPECT_EQ(sharing_ranks({"a", "b", "c", "b", "a"}), std::pair(1, 3));
}

// Protects: all ranks say which two are to blame.
TEST(OwnGpus, AllRanksRefuse) {
  const Communicator world = Communicator::world();
  EXPECT_NO_THROW(check_own_gpus("GPU-" + std::to_string(world.rank()), world));
  if (world.size() == 1) {
    return;
  }
  try {
    check_own_gpus("GPU-" + std::to_string(world.rank() == 0 ? 1 : world.rank()), world);
    ADD_FAILURE() << "two ranks got one GPU";
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.code(), Exit::kUsage);
    const std::string text = error.what();
    EXPECT_NE(text.find("ranks 0 and 1 have one GPU, GPU-1 on "), std::string::npos) << text;
    EXPECT_NE(text.find("run.collectives = staged"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace moesaic::comm
