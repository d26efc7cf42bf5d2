// Hugging Face folders written by several ranks.
#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "comm/communicator.h"
#include "hf/folder.h"
#include "support/shared_dir.h"

namespace moesaic::hf {
namespace {

namespace fs = std::filesystem;
using moesaic::testing::SharedDir;
using Extents = std::vector<std::int64_t>;

HfFolder fixture() { return HfFolder::open(fs::path(MOESAIC_GOLDEN_DIR) / "families" / "gpt_oss"); }

HfFolderRequest request_of(const HfFolder& from, const fs::path& folder) {
  return {
      folder, from.config().family, from.config().model, from.config().router, DType::kF32, 20'000,
      {}};
}

std::set<std::string> files_of(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.insert(entry.path().filename().string());
  }
  return names;
}

// Whatever the number of ranks, the files are the same to the byte.
TEST(HfFolderRanks, SameFiles) {
  const comm::Communicator world = comm::Communicator::world();
  const SharedDir dir;
  HfFolder from = fixture();
  const ReadPart read = [&](const std::string& name, const Extents& offset, const Extents& extent,
                            std::span<float> values) { from.read(name, offset, extent, values); };
  write_hf_folder(request_of(from, dir.path / "all"), read, world);
  if (world.is_root()) {
    write_hf_folder(request_of(from, dir.path / "one"), read, comm::Communicator());
    const auto names = files_of(dir.path / "one");
    EXPECT_GT(names.size(), 8U);
    EXPECT_EQ(files_of(dir.path / "all"), names);
    for (const std::string& name : names) {
      EXPECT_EQ(testing::read_file(dir.path / "all" / name),
                testing::read_file(dir.path / "one" / name))
          << name;
    }
  }
  world.barrier();
}

// A rank that cannot read its part ends all alike, and no model is left behind.
TEST(HfFolderRanks, OneFails) {
  const comm::Communicator world = comm::Communicator::world();
  const SharedDir dir;
  const HfFolder from = fixture();
  const ReadPart read = [&](const std::string& name, const Extents&, const Extents&,
                            std::span<float>) {
    if (world.rank() == world.size() - 1) {
      throw Error(Exit::kBadData, name + " is damaged");
    }
  };
  try {
    write_hf_folder(request_of(from, dir.path / "out"), read, world);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const comm::AgreedError& error) {
    EXPECT_EQ(error.code(), Exit::kBadData) << error.what();
  }
  EXPECT_FALSE(HfFolder::is_one(dir.path / "out"));
  world.barrier();
}

}  // namespace
}  // namespace moesaic::hf
