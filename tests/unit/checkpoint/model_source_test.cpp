// What says which weights a folder holds: kept parts are used again, and ranks agree, by it.
#include "checkpoint/model_source.h"

#include <gtest/gtest.h>

#include "files/durable.h"
#include "support/temp_dir.h"

namespace moesaic::checkpoint {
namespace {

namespace fs = std::filesystem;

TEST(ModelSource, FingerprintsOfCopies) {
  const testing::TempDir dir;
  const fs::path original = fs::path(MOESAIC_GOLDEN_DIR) / "families" / "mixtral";
  for (const char* name : {"a", "b"}) {
    fs::copy(original, dir / name);
  }
  const fs::path weights = dir / "b" / "model.safetensors";
  fs::last_write_time(dir / "a" / "model.safetensors", fs::last_write_time(weights));
  const auto print = [&](const char* name, ModelSource::Times times) {
    return ModelSource::open(dir / name).fingerprint(times);
  };
  using Times = ModelSource::Times;
  EXPECT_EQ(print("a", Times::kCount), print("b", Times::kCount));
  fs::last_write_time(weights, fs::last_write_time(weights) - std::chrono::hours(1));
  EXPECT_NE(print("a", Times::kCount), print("b", Times::kCount));
  EXPECT_EQ(print("a", Times::kIgnored), print("b", Times::kIgnored));
  std::string bytes = files::read_whole(weights);
  bytes[bytes.size() - 1000] ^= 1;
  testing::write_file(weights, bytes);
  EXPECT_NE(print("a", Times::kIgnored), print("b", Times::kIgnored));
}

}  // namespace
}  // namespace moesaic::checkpoint
