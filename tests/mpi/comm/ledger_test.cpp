#include "comm/ledger.h"

#include <gtest/gtest.h>

#include "backend/backend.h"
#include "comm/collectives.h"
#include "comm/handshake.h"
#include "comm/mesh.h"

namespace moesaic::comm {
namespace {

const Standing::Part& part(const Standing& standing, Group group) {
  return standing.parts[static_cast<std::size_t>(group)];
}

// Protects: members number the collectives of a group alike, on both planes, started ones too.
TEST(Ledger, NumbersAgree) {
  Ledger ledger;
  Mesh mesh = Mesh::make({.tp = Communicator::world().size()}, &ledger);
  const auto backend = make_cpu_backend(1);
  const auto group = make_mpi_collectives(*backend, mesh[Group::kTp]);
  const Tensor values = backend->empty(DType::kF32, {8});
  backend->zero(values);
  group->all_reduce_sum(values);
  group->start_all_reduce_sum(values);
  mesh[Group::kTp].all_reduce(1.0, Reduce::kMax);
  group->finish();
  mesh[Group::kTp].barrier();
  const Standing standing = ledger.standing();
  EXPECT_FALSE(standing.waits);
  if (mesh[Group::kTp].size() > 1) {
    EXPECT_EQ(part(standing, Group::kTp).begun, 4);
    EXPECT_EQ(part(standing, Group::kTp).members.text(),
              "ranks 0-" + std::to_string(mesh[Group::kTp].size() - 1));
    EXPECT_EQ(part(standing, Group::kTp).messages, 0);
  }
  EXPECT_EQ(part(standing, Group::kPp).begun, 0);  // of one rank: it never waits
  mesh.close();
}

// Protects: a message is recorded by the rank that waits for it, with its sender's world rank.
TEST(Ledger, Messages) {
  Ledger ledger;
  Mesh mesh = Mesh::make({.pp = Communicator::world().size()}, &ledger);
  const int size = mesh[Group::kPp].size();
  const auto backend = make_cpu_backend(1);
  const auto group = make_mpi_collectives(*backend, mesh[Group::kPp]);
  const Tensor sent = backend->empty(DType::kF32, {8});
  const Tensor received = backend->empty(DType::kF32, {8});
  backend->zero(sent);
  if (size > 1) {
    group->start_send(sent, (mesh[Group::kPp].rank() + 1) % size, 3);
    const int from = (mesh[Group::kPp].rank() + size - 1) % size;
    group->receive(received, from, 3);
    EXPECT_EQ(ledger.standing().wait.peer, from);
    EXPECT_EQ(ledger.standing().wait.operation, Operation::kReceive);
    group->finish();
    EXPECT_GE(part(ledger.standing(), Group::kPp).messages, 1);
    EXPECT_EQ(part(ledger.standing(), Group::kPp).begun, 0);
  }
  mesh.close();
}

// Protects: what the device waits in is seen, the oldest first, until it has ended.
TEST(Ledger, OperationsOfTheDevice) {
  Ledger ledger;
  Mesh mesh = Mesh::make({.tp = Communicator::world().size()}, &ledger);
  const Communicator& group = mesh[Group::kTp];
  bool first = false, second = false;
  group.launched(Operation::kAllReduce, [&] { return first; });
  group.launched(Operation::kAllGather, [&] { return second; });
  if (group.size() > 1) {
    EXPECT_TRUE(ledger.standing().waits);
    EXPECT_EQ(ledger.standing().wait.operation, Operation::kAllReduce);
    EXPECT_EQ(ledger.standing().wait.number, 1);
    first = true;
    EXPECT_EQ(ledger.standing().wait.operation, Operation::kAllGather);
    EXPECT_EQ(part(ledger.standing(), Group::kTp).begun, 2);
  }
  first = second = true;
  EXPECT_FALSE(ledger.standing().waits);
  EXPECT_EQ(ledger.trouble(), "");
  ledger.watch(&first, [] { return std::string(); });
  ledger.watch(&second, [] { return std::string("a cable is out"); });
  EXPECT_EQ(ledger.trouble(), "a cable is out");
  ledger.watch(&second, nullptr);
  EXPECT_EQ(ledger.trouble(), "");
  mesh.close();
}

// Protects: ranks that agree go on; a rank that differs is named, with key and both values, on all.
TEST(Handshake, NamesTheDifference) {
  const Communicator world = Communicator::world();
  Facts facts = {{"train.lr", "0.001"}, {"empty", ""}};
  EXPECT_NO_THROW(check_same(facts, world));
  if (world.size() == 1) {
    return;
  }
  if (world.rank() == world.size() - 1) {
    facts = {{"train.lr", "0.5"}, {"more", "x"}, {"empty", ""}};
  }
  try {
    check_same(facts, world);
    ADD_FAILURE() << "different facts were taken for the same";
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.code(), Exit::kMismatch);
    const std::string text = error.what();
    EXPECT_EQ(text.rfind("1 of " + std::to_string(world.size()) + " ranks do not agree", 0), 0U)
        << text;
    EXPECT_NE(text.find("train.lr  0.001"), std::string::npos) << text;
    EXPECT_NE(text.find("0.5"), std::string::npos) << text;
    EXPECT_NE(text.find("more"), std::string::npos) << text;
    EXPECT_EQ(text.find("empty"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace moesaic::comm
