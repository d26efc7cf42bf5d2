// What is written as a Hugging Face folder reads back the same.
#include <gtest/gtest.h>

#include "hf/unfinished.h"
#include "unit/hf/folders.h"

namespace moesaic::hf {
namespace {

/// The same model, in one file.
HfFolderRequest request_of(const HfFolder& from, const fs::path& folder) {
  return {folder,
          from.config().family,
          from.config().model,
          from.config().router,
          DType::kF32,
          5'000'000'000,
          {}};
}

/// Writes a folder's tensors anew.
void rewrite(HfFolder& from, const HfFolderRequest& request) {
  const ReadPart read = [&](const std::string& name, const Extents& offset, const Extents& extent,
                            std::span<float> values) { from.read(name, offset, extent, values); };
  write_hf_folder(request, read, comm::Communicator());
}

// Every family's folder, written anew in one file or several, reads back the same; so do its files
// by the other reader: all tensors, in their stored places.
TEST(HfFolderWrite, RoundTrip) {
  for (const std::string& name : kFolders) {
    for (const std::int64_t most : {std::int64_t{5'000'000'000}, std::int64_t{40'000}}) {
      HfFolder from = HfFolder::open(folder_of(name));
      const TempDir dir;
      HfFolderRequest request = request_of(from, dir / "out");
      request.shard_bytes = most;
      rewrite(from, request);
      HfFolder to = HfFolder::open(dir / "out");
      to.check();
      ASSERT_EQ(to.names(), from.names());
      for (const std::string& tensor : to.names()) {
        ASSERT_EQ(whole(to, tensor), whole(from, tensor)) << name << ": " << tensor;
      }
      EXPECT_EQ(fs::exists(dir / "out" / "model.safetensors"), most > 40'000) << name;
      for (const auto& entry : fs::directory_iterator(dir / "out")) {
        EXPECT_NE(entry.path().extension(), ".tmp");
        EXPECT_TRUE(most > 40'000 || entry.file_size() < 60'000) << entry.path();
      }
      if (!from.config().has_fp8) {
        const Arrays before = arrays_of(folder_of(name)), after = arrays_of(dir / "out");
        ASSERT_EQ(after.size(), before.size());
        for (const auto& [stored, array] : before) {
          ASSERT_EQ(after.at(stored).values, array.values) << name << ": " << stored;
          ASSERT_EQ(after.at(stored).shape, array.shape) << name << ": " << stored;
        }
      }
    }
  }
}

// In bf16 the values are those next to the ones before; the bias that ranks experts stays as it is.
TEST(HfFolderWrite, Narrow) {
  HfFolder from = HfFolder::open(folder_of("deepseek_v3"));
  const TempDir dir;
  HfFolderRequest request = request_of(from, dir / "out");
  request.type = DType::kBf16;
  rewrite(from, request);
  HfFolder to = HfFolder::open(dir / "out");
  to.check();
  const std::string bias = "model.layers.1.mlp.gate.e_score_correction_bias";
  EXPECT_EQ(whole(to, bias), whole(from, bias));
  const auto narrow = whole(to, "lm_head.weight"), wide = whole(from, "lm_head.weight");
  for (std::size_t i = 0; i < wide.size(); ++i) {
    EXPECT_NEAR(narrow[i], wide[i], std::abs(wide[i]) / 256);
  }
  EXPECT_EQ(arrays_of(dir / "out").at("lm_head.weight").dtype, "BF16");
}

// A model is never overwritten; what an unfinished writing left is, and files beside it come along.
TEST(HfFolderWrite, Existing) {
  HfFolder from = HfFolder::open(folder_of("olmoe"));
  const TempDir dir;
  testing::write_file(dir / "tokenizer.json", "{}");
  testing::write_file(dir / "notes.txt", "");
  fs::create_directory(dir / "out");
  testing::write_file(dir / "out" / "model-00001-of-00002.safetensors", "half");
  testing::write_file(dir / "out" / "model.safetensors.index.json", "{}");
  const auto sidecars = sidecar_files(dir.path());
  EXPECT_EQ(sidecars, std::vector<fs::path>{dir / "tokenizer.json"});
  HfFolderRequest request = request_of(from, dir / "out");
  request.copy = sidecars;
  expect_in(message_of([&] { rewrite(from, request); }, Exit::kCannotCreate), "is not empty");
  EXPECT_EQ(testing::read_file(dir / "out" / "model-00001-of-00002.safetensors"), "half");
  testing::write_file(dir / "out" / ".unfinished", "");
  rewrite(from, request);
  EXPECT_EQ(testing::read_file(dir / "out" / "tokenizer.json"), "{}");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir / "out"), {}), 3);
  expect_in(message_of([&] { rewrite(from, request); }, Exit::kCannotCreate), "is not empty");
}

// A reader that fails leaves a folder without a config, which nobody takes for a model.
TEST(HfFolderWrite, Unfinished) {
  HfFolder from = HfFolder::open(folder_of("olmoe"));
  const TempDir dir;
  int left = 20;
  const ReadPart read = [&](const std::string&, const Extents&, const Extents&, std::span<float>) {
    if (--left == 0) {
      throw Error(Exit::kBadData, "it is damaged");
    }
  };
  const HfFolderRequest request = request_of(from, dir / "out");
  message_of([&] { write_hf_folder(request, read, comm::Communicator()); }, Exit::kBadData);
  EXPECT_TRUE(fs::is_empty(dir / "out"));
}

}  // namespace
}  // namespace moesaic::hf
