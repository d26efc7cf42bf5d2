// What the double says of orders that could deadlock.
#include <gtest/gtest.h>

#include "nccl_double/order.h"

namespace moesaic::nccl_double {
namespace {

constexpr std::int64_t kFirst = 1, kSecond = 2;

Step calls(int stream, std::int64_t comm, std::vector<Part> parts) {
  return {.stream = stream, .comm = comm, .parts = std::move(parts)};
}
Step sum(int stream, std::int64_t comm, std::int64_t bytes = 8) {
  return calls(stream, comm, {{Call::kAllReduce, -1, bytes}});
}
Step send(int stream, std::int64_t comm, int to) {
  return calls(stream, comm, {{Call::kSend, to, 8}});
}
Step receive(int stream, std::int64_t comm, int from) {
  return calls(stream, comm, {{Call::kReceive, from, 8}});
}

// Two ranks and two communicators of both.
std::vector<RankLog> two(std::vector<Step> first, std::vector<Step> second,
                         const CommFacts& facts = {.members = {0, 1}, .family = 1, .blocks = 0},
                         std::int64_t other_family = 1) {
  CommFacts other = facts;
  other.family = other_family;
  const std::map<std::int64_t, CommFacts> comms = {{kFirst, facts}, {kSecond, other}};
  return {{std::move(first), comms}, {std::move(second), comms}};
}

bool has(const std::vector<std::string>& problems, const std::string& text) {
  for (const std::string& problem : problems) {
    if (problem.find(text) != std::string::npos) {
      return true;
    }
  }
  return false;
}

TEST(NcclOrder, OneOrderInOneStream) {
  EXPECT_TRUE(problems_of(two({sum(1, kFirst), sum(1, kSecond)}, {sum(1, kFirst), sum(1, kSecond)}))
                  .empty());
  EXPECT_TRUE(
      has(problems_of(two({sum(1, kFirst), sum(1, kSecond)}, {sum(1, kSecond), sum(1, kFirst)})),
          "rank 0, stream 1: waits for ever in all_reduce"));
}

TEST(NcclOrder, CallsThatDoNotFit) {
  EXPECT_TRUE(has(problems_of(two({sum(1, kFirst, 8)}, {sum(1, kFirst, 12)})),
                  "rank 0 is at all_reduce of 8 bytes, rank 1 at all_reduce of 12 bytes"));
  EXPECT_TRUE(has(problems_of(two({sum(1, kFirst)}, {})), "waits for ever"));
}

// Protects against nccl#195: two streams that fill the GPU, though in one order.
TEST(NcclOrder, TwoStreams) {
  const std::vector<Step> steps = {sum(1, kFirst), sum(2, kSecond)};
  EXPECT_TRUE(has(problems_of(two(steps, steps)), "share connections in two streams"));
  const CommFacts apart{.members = {0, 1}, .family = 1, .blocks = 0};
  EXPECT_TRUE(has(problems_of(two(steps, steps, apart, 2)), "without a limit of blocks"));
  const CommFacts small{.members = {0, 1}, .family = 1, .blocks = 4};
  EXPECT_TRUE(problems_of(two(steps, steps, small, 2)).empty());
  EXPECT_TRUE(
      has(problems_of(two({sum(1, kFirst), sum(2, kFirst)}, {sum(1, kFirst), sum(2, kFirst)})),
          "one communicator in two streams"));
}

// Protects 1F1B: a message may wait until it is received.
TEST(NcclOrder, CrossedMessages) {
  const std::vector<Step> zero = {send(1, kFirst, 1), receive(1, kFirst, 1)};
  const std::vector<Step> one = {send(1, kFirst, 0), receive(1, kFirst, 0)};
  EXPECT_TRUE(has(problems_of(two(zero, one)), "rank 1, stream 1: waits for ever in send with 0"));
  const std::vector<Step> together = {
      calls(1, kFirst, {{Call::kSend, 1, 8}, {Call::kReceive, 1, 8}})};
  const std::vector<Step> with = {calls(1, kFirst, {{Call::kSend, 0, 8}, {Call::kReceive, 0, 8}})};
  EXPECT_TRUE(problems_of(two(together, with)).empty());
  EXPECT_TRUE(problems_of(two({send(1, kFirst, 1), receive(1, kFirst, 1)},
                              {receive(1, kFirst, 0), send(1, kFirst, 0)}))
                  .empty());
}

// Protects: a wait for an event of another stream counts.
TEST(NcclOrder, Events) {
  const auto record = [](int stream, std::int64_t event) {
    return Step{.kind = Step::Kind::kRecord, .stream = stream, .event = event};
  };
  const auto wait = [](int stream, std::int64_t event) {
    return Step{.kind = Step::Kind::kWait, .stream = stream, .event = event};
  };
  // Rank 0 computes with what arrives before it sends; rank 1 the same: a circle.
  const auto circle = [&](int other) {
    return std::vector<Step>{
        receive(1, kFirst, other), record(1, 1), wait(0, 1), record(0, 2), wait(2, 2),
        send(2, kSecond, other)};
  };
  EXPECT_TRUE(has(problems_of(two(circle(1), circle(0))), "waits for ever in receive"));
}

TEST(NcclOrder, Text) {
  const RankLog log = two({sum(1, kFirst), send(2, kSecond, 1)}, {}).front();
  EXPECT_EQ(RankLog::parse(log.text()).text(), log.text());
}

}  // namespace
}  // namespace moesaic::nccl_double
