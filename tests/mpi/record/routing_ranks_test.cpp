#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>

#include "comm/communicator.h"
#include "files/hdf5/file.h"
#include "files/hdf5/thread.h"
#include "record/routing_record.h"
#include "support/shared_dir.h"

namespace moesaic::record {
namespace {

namespace fs = std::filesystem;
using moesaic::testing::SharedDir;

constexpr std::int64_t kLayers = 4, kPieceRows = 100, kPieces = 8, kRows = kPieceRows * kPieces;

RoutingAxes axes_of() {
  return {.moe_layers = {0, 1, 2, 3},
          .experts = 5,
          .choices = 1,
          .step_rows = kRows,
          .tasks = {"none"},
          .corpora = {"web"},
          .attributes = {}};
}

/// Every piece of a step and a layer is of the rank that their numbers say.
RoutingPart part_of(std::int64_t step, int rank, int ranks) {
  RoutingPart part;
  for (std::int64_t piece = 0; piece < kPieces; ++piece) {
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      if ((piece + layer) % ranks == rank) {
        const auto expert = static_cast<std::int16_t>((piece + layer + step) % 5);
        part.routed.push_back({.layer = layer,
                               .first = piece * kPieceRows,
                               .chosen = std::vector<std::int16_t>(kPieceRows, expert),
                               .target = std::vector<std::int16_t>(kPieceRows, expert),
                               .weight = std::vector<float>(kPieceRows, 0.5F),
                               .fate = std::vector<std::uint8_t>(kPieceRows, 0)});
      }
    }
    if (piece % ranks == rank) {
      part.tokens.push_back({.first = piece * kPieceRows,
                             .document = std::vector<std::int64_t>(kPieceRows, piece),
                             .position = std::vector<std::int64_t>(kPieceRows, step),
                             .token = std::vector<std::int32_t>(kPieceRows, 7),
                             .corpus = std::vector<std::uint16_t>(kPieceRows, 0),
                             .task = std::vector<std::uint8_t>(kPieceRows, 0)});
    }
  }
  return part;
}

void check(const fs::path& file, std::int64_t steps) {
  EXPECT_EQ(verify_routing(file), std::vector<std::string>{});
  files::hdf5_run([&] {
    const files::Hdf5File read = files::Hdf5File::open(file);
    EXPECT_EQ(read.extents("/steps/step"), files::Extents{steps});
    const auto chosen = read.read_all<std::int64_t>("/chosen");
    const auto document = read.read_all<std::int64_t>("/tokens/document");
    for (std::int64_t i = 0; i < steps * kRows * kLayers; ++i) {
      const std::int64_t row = i / kLayers;
      const std::int64_t piece = row % kRows / kPieceRows;
      ASSERT_EQ(chosen[static_cast<std::size_t>(i)], (piece + i % kLayers + row / kRows + 1) % 5);
      ASSERT_EQ(document[static_cast<std::size_t>(row)], piece);
    }
  });
}

// What several ranks write into one chunk is what one rank would write.
TEST(RoutingRanks, WriteOneFile) {
  const auto world = comm::Communicator::world();
  const SharedDir dir;
  RoutingWriter writer = RoutingWriter::create(dir.path / "t.h5", axes_of(), world);
  for (std::int64_t step = 1; step <= 9; ++step) {
    writer.add(step, kRows, part_of(step, world.rank(), world.size()));
  }
  writer.sync();
  if (world.is_root()) {
    check(dir.path / "t.h5", 9);
  }
  world.barrier();
}

/// This rank's files may not grow for a while, as if its disk were full.
class NoRoom {
 public:
  NoRoom() {
    std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit none{1000, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &none);
  }
  NoRoom(const NoRoom&) = delete;
  NoRoom& operator=(const NoRoom&) = delete;
  ~NoRoom() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

// A rank that cannot write stops all of them with its reason; the file holds the steps before.
TEST(RoutingRanks, OneCannotWrite) {
  const auto world = comm::Communicator::world();
  const SharedDir dir;
  const fs::path file = dir.path / "t.h5";
  RoutingWriter writer = RoutingWriter::create(file, axes_of(), world);
  writer.add(1, kRows, part_of(1, world.rank(), world.size()));
  try {
    std::optional<NoRoom> full;
    if (world.rank() == world.size() - 1) {
      full.emplace();
    }
    writer.add(2, kRows, part_of(2, world.rank(), world.size()));
    ADD_FAILURE() << "no error";
  } catch (const comm::AgreedError& error) {
    EXPECT_EQ(error.code(), Exit::kIoError);
    EXPECT_NE(std::string(error.what()).find("t.h5"), std::string::npos) << error.what();
  }
  if (world.is_root()) {
    check(file, 1);
  }
  world.barrier();
  writer.add(2, kRows, part_of(2, world.rank(), world.size()));
  if (world.is_root()) {
    check(file, 2);
  }
  world.barrier();
}

}  // namespace
}  // namespace moesaic::record
