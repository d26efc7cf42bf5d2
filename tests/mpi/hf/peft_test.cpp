// PEFT folders that rank 0 writes for all, and that each rank reads by its texts.
#include "hf/peft.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "comm/communicator.h"
#include "support/shared_dir.h"

namespace moesaic::hf {
namespace {

namespace fs = std::filesystem;
using moesaic::testing::SharedDir;
using Extents = std::vector<std::int64_t>;

const std::string kName = "model.layers.1.self_attn.q_proj.weight";

PeftFolderRequest request_of(const fs::path& folder, const std::string& name) {
  const HfConfig base =
      HfFolder::open(fs::path(MOESAIC_GOLDEN_DIR) / "families" / "mixtral").config();
  return {folder, base.family, base.model, base.router, {name}, 2, 2.0};
}

// Only rank 0 is asked for values; the others read what it has written.
TEST(PeftRanks, WriteAndRead) {
  const comm::Communicator world = comm::Communicator::world();
  const SharedDir dir;
  const PeftFolderRequest request = request_of(dir.path / "out", kName);
  write_peft_folder(
      request,
      [&](const std::string& name, const Extents&, const Extents&, std::span<float> values) {
        EXPECT_TRUE(world.is_root());
        for (std::size_t i = 0; i < values.size(); ++i) {
          values[i] = static_cast<float>(i) + (name.ends_with("lora_A.weight") ? 0.25F : 0.5F);
        }
      },
      world);
  PeftTexts texts;
  if (world.is_root()) {
    texts = read_peft_texts(request.folder);
  }
  for (std::string* const text : {&texts.config, &texts.tensors, &texts.weights}) {
    world.broadcast(*text, 0);
  }
  PeftFolder read =
      PeftFolder::of(request.folder, texts, *request.family, request.model, request.router);
  EXPECT_EQ(read.names(), std::vector<std::string>{kName});
  std::vector<float> a(2), b(2);  // a column, and a row, by rank
  read.read_a(kName, {world.rank(), 1}, a);
  read.read_b(kName, {world.rank(), 1}, b);
  const auto rank = static_cast<float>(world.rank());
  EXPECT_EQ(a, (std::vector<float>{rank + 0.25F, rank + 24.25F}));
  EXPECT_EQ(b, (std::vector<float>{2 * rank + 0.5F, 2 * rank + 1.5F}));
  world.barrier();
}

// What fails on rank 0 fails on all, and leaves nothing behind.
TEST(PeftRanks, Fails) {
  const comm::Communicator world = comm::Communicator::world();
  const SharedDir dir;
  const auto code_of = [&](const PeftFolderRequest& request) {
    try {
      write_peft_folder(
          request,
          [](const std::string& name, const Extents&, const Extents&, std::span<float>) {
            throw Error(Exit::kBadData, name + " is damaged");
          },
          world);
    } catch (const comm::AgreedError& error) {
      return error.code();
    }
    return Exit::kDone;
  };
  EXPECT_EQ(code_of(request_of(dir.path / "out", "lm_head.weight")), Exit::kUsage);
  EXPECT_EQ(code_of(request_of(dir.path / "out", kName)), Exit::kBadData);
  world.barrier();
  EXPECT_TRUE(fs::is_empty(dir.path / "out"));
  world.barrier();
  if (world.is_root()) {
    testing::write_file(dir.path / "out" / "notes.txt", "");
  }
  EXPECT_EQ(code_of(request_of(dir.path / "out", kName)), Exit::kCannotCreate);
  world.barrier();
}

}  // namespace
}  // namespace moesaic::hf
