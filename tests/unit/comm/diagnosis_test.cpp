#include "comm/diagnosis.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "comm/watchdog.h"

namespace moesaic::comm {
namespace {

// Standings of so many ranks in one world, tp = 2: groups (0 1) (2 3) ..., all of them computing.
class DiagnosisTest : public testing::Test {
 protected:
  void make(int ranks) {
    for (int rank = 0; rank < ranks; ++rank) {
      Ledger ledger;
      ledger.add(Group::kWorld, {.first = 0, .count = ranks, .stride = 1});
      ledger.add(Group::kTp, {.first = rank / 2 * 2, .count = 2, .stride = 1});
      ledger.add(Group::kPp, {.first = rank % 2, .count = ranks / 2, .stride = 2});
      standings[rank] = ledger.standing();
      fmt::format_to_n(standings[rank].doing.data(), 95, "phase forward of step 41");
      hosts.push_back(fmt::format("n{}", rank));
    }
  }
  // The rank has begun `number` collectives of the group and waits in the last.
  void wait(int rank, Group group, std::int64_t number) {
    standings[rank].parts[static_cast<std::size_t>(group)].begun = number;
    standings[rank].wait = {group, Operation::kAllReduce, -1, number};
    standings[rank].waits = true;
  }
  void wait_for_message(int rank, int from) {
    standings[rank].wait = {Group::kPp, Operation::kReceive, from, 7};
    standings[rank].waits = true;
  }
  std::string text() const { return diagnose(standings, hosts); }

  std::map<int, Standing> standings;
  std::vector<std::string> hosts;
};

// Protects: the chain of waiting ranks is followed to its root, and that one alone is named.
TEST_F(DiagnosisTest, FollowsTheChain) {
  make(4);
  wait(2, Group::kTp, 812);
  wait_for_message(0, 2);
  wait(1, Group::kTp, 5);  // for rank 0
  EXPECT_EQ(text(),
            "rank 3 on n3 has not arrived at all_reduce #812 of tp (ranks 2-3): it is in phase "
            "forward of step 41; rank 2 on n2 waits for it there, in phase forward of step 41");
}

// Protects: where a host alone is looked at, its own ranks are blamed first, others are not judged.
TEST_F(DiagnosisTest, RanksOfOtherHosts) {
  make(4);
  for (const int rank : {2, 3}) {
    standings.erase(rank);
    hosts[static_cast<std::size_t>(rank)].clear();
  }
  wait(0, Group::kWorld, 9);
  EXPECT_EQ(text(),
            "rank 1 on n1 has not arrived at all_reduce #9 of world (ranks 0-3): it is in phase "
            "forward of step 41; rank 0 on n0 waits for it there, in phase forward of step 41");
  wait(1, Group::kWorld, 9);
  EXPECT_NE(text().find("rank 2 on another host has not arrived at all_reduce #9"),
            std::string::npos);
  EXPECT_NE(text().find("it cannot be asked with run.mpi_threads = serialized"), std::string::npos);
}

// Protects: a silent rank counts as missing where others wait for it.
TEST_F(DiagnosisTest, SilentRank) {
  make(4);
  standings.erase(1);
  wait(0, Group::kTp, 9);
  wait_for_message(3, 1);
  wait(2, Group::kTp, 4);
  EXPECT_EQ(text(),
            "rank 1 on n1 has not arrived at all_reduce #9 of tp (ranks 0-1): it gives no answer: "
            "it is stopped, or its host is out of reach; rank 0 on n0 waits for it there, in phase "
            "forward of step 41");
}

// Protects: ranks that took different ways and wait for each other are all named, with both places.
TEST_F(DiagnosisTest, Circle) {
  make(2);
  wait(0, Group::kTp, 12);
  wait(1, Group::kWorld, 30);
  const std::string found = text();
  EXPECT_NE(found.find("rank 1 on n1 has not arrived at all_reduce #12 of tp (ranks 0-1): it is in "
                       "phase forward of step 41 and waits in all_reduce #30 of world (ranks 0-1)"),
            std::string::npos)
      << found;
  EXPECT_NE(found.find("rank 0 on n0 has not arrived at all_reduce #30 of world"),
            std::string::npos)
      << found;
}

// Protects: one message stays readable where thousands wait, or thousands are gone.
TEST_F(DiagnosisTest, TenThousandRanks) {
  make(10000);
  for (int rank = 0; rank < 10000; ++rank) {
    if (rank % 100 == 7) {
      standings.erase(rank);
    } else {
      wait(rank, Group::kWorld, 3);
    }
  }
  const std::string found = text();
  EXPECT_EQ(std::count(found.begin(), found.end(), '\n'), 8) << found;
  EXPECT_EQ(found.rfind("rank 7 on n7 has not arrived at all_reduce #3 of world (ranks 0-9999): it "
                        "gives no answer",
                        0),
            0U)
      << found;
  EXPECT_NE(found.find("rank 0 on n0 waits for it there (and 9899 more)"), std::string::npos);
  EXPECT_NE(found.find("\nand 92 more such ranks"), std::string::npos) << found;
}

// Protects: where nobody waits (a limit that is too short), the message accuses nobody.
TEST_F(DiagnosisTest, AllBusy) {
  make(2);
  EXPECT_EQ(text(),
            "rank 0 on n0 is in phase forward of step 41\nrank 1 on n1 is in phase forward of step "
            "41\nno rank is known to wait for another");
}

// Protects: members of strided groups are told from those between them.
TEST(Members, Strided) {
  const Members every_second{.first = 1, .count = 3, .stride = 2};
  EXPECT_EQ(every_second.text(), "ranks 1, 3, 5");
  EXPECT_EQ((Members{.first = 0, .count = 64, .stride = 8}.text()), "ranks 0, 8, ..., 504");
}

// Protects: members that lie in runs are named by their ranks, and none between the runs.
TEST(Members, Runs) {
  const Members two_of_four{.first = 2, .count = 4, .stride = 1, .run = 2, .jump = 4};
  EXPECT_EQ(two_of_four.text(), "ranks 2, 3, 6, 7");
  EXPECT_EQ((Members{.first = 1, .count = 6, .stride = 2, .run = 2, .jump = 8}.text()),
            "ranks 1, 3, ..., 19");
}

// Protects: a file server that hangs for minutes does not end a job of short steps.
TEST(Watchdog, AutomaticLimitOfAStep) {
  EXPECT_EQ(automatic_step_limit({}), 600.0);
  EXPECT_EQ(automatic_step_limit({0.1, 0.2, 0.3}), 600.0);
  EXPECT_EQ(automatic_step_limit({100.0, 90.0, 5000.0}), 1000.0);
}

}  // namespace
}  // namespace moesaic::comm
