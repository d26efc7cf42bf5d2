#include "checkpoint/checkpoint.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <numeric>

#include "base/error.h"
#include "base/json.h"
#include "files/durable.h"
#include "support/temp_dir.h"

namespace moesaic::checkpoint {
namespace {

namespace fs = std::filesystem;
using moesaic::testing::TempDir;

/// Tensors with the values 0, 1, 2, ... of an element's place in the unsharded tensor.
struct Example {
  std::vector<float> matrix = counted(30), vector = counted(7), scalar = counted(1),
                     cube = counted(48);

  static std::vector<float> counted(std::size_t count) {
    std::vector<float> values(count);
    std::iota(values.begin(), values.end(), 0.0F);
    return values;
  }
  /// The matrix (6, 5) in four blocks, of which the first two split its columns.
  std::vector<BlockToSave> blocks() {
    top_left = {0, 1, 5, 6};
    top_right = {2, 3, 4, 7, 8, 9};
    const std::span<const float> below(matrix);
    return {{"layers.0.weight", {6, 5}, {0, 0}, {2, 2}, given(top_left)},
            {"layers.0.weight", {6, 5}, {0, 2}, {2, 3}, given(top_right)},
            {"layers.0.weight", {6, 5}, {2, 0}, {1, 5}, given(below.subspan(10, 5))},
            {"layers.0.weight", {6, 5}, {3, 0}, {3, 5}, given(below.subspan(15))},
            {"exp_avg/layers.0.weight", {7}, {0}, {7}, given(vector)},
            {"scale", {}, {}, {}, given(scalar)},
            {"nothing", {0, 3}, {0, 0}, {0, 3}, {}},
            {"cube", {2, 3, 2, 4}, {0, 0, 0, 0}, {2, 3, 2, 4}, given(cube)}};
  }
  std::vector<float> top_left, top_right;
};

fs::path save(const fs::path& dir, std::int64_t step) {
  Example example;
  const Json state{{"step", step}, {"cursor", 42}, {"rate", 0.1}};
  const comm::Communicator alone;
  return save_checkpoint({dir, step, state, {}}, example.blocks(), alone);
}

template <class F>
Error error_of(const F& work) {
  try {
    work();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return {Exit::kDone, ""};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Any region is put together from the blocks that hold it.
TEST(Checkpoint, RoundTrip) {
  const TempDir dir;
  EXPECT_EQ(save(dir.path(), 1000), dir / "step-00001000");
  EXPECT_EQ(testing::read_file(dir / "latest"), "step-00001000\n");
  EXPECT_EQ(verify_checkpoint(dir.path()), std::vector<std::string>{});
  CheckpointReader reader = CheckpointReader::open(dir.path());
  EXPECT_EQ(reader.state().at("cursor"), 42);
  EXPECT_EQ(reader.names().size(), 4U);
  EXPECT_EQ(reader.shape("layers.0.weight"), (std::vector<std::int64_t>{6, 5}));
  EXPECT_FALSE(reader.shape("none").has_value());
  for (std::int64_t row = 0; row < 6; ++row) {
    for (std::int64_t col = 0; col < 5; ++col) {
      std::vector<float> region(static_cast<std::size_t>((6 - row) * (5 - col)));
      reader.read("layers.0.weight", {row, col}, {6 - row, 5 - col}, region);
      for (std::size_t i = 0; i < region.size(); ++i) {
        const auto at = static_cast<std::int64_t>(i);
        const std::int64_t whole_row = row + at / (5 - col);
        ASSERT_EQ(region[i], static_cast<float>(whole_row * 5 + col + at % (5 - col)));
      }
    }
  }
}

// Scalars and tensors of four dims are regions like any other.
TEST(Checkpoint, ZeroAndFourDims) {
  const TempDir dir;
  CheckpointReader reader = CheckpointReader::open(save(dir.path(), 1));
  std::vector<float> scalar(1, -1.0F);
  reader.read("scale", {}, {}, scalar);
  EXPECT_EQ(scalar[0], 0.0F);
  std::vector<float> region(8);
  reader.read("cube", {0, 1, 1, 2}, {2, 2, 1, 2}, region);
  EXPECT_EQ(region, (std::vector<float>{14, 15, 22, 23, 38, 39, 46, 47}));
}

// Files that were asked for lie beside the tensors, and are checked.
TEST(Checkpoint, CopiesFiles) {
  const TempDir dir;
  testing::write_file(dir / "vocab.model", "words");
  Example example;
  const Json state;
  const auto path = save_checkpoint({dir / "checkpoints", 1, state, {dir / "vocab.model"}},
                                    example.blocks(), comm::Communicator());
  EXPECT_EQ(testing::read_file(path / "vocab.model"), "words");
  testing::write_file(path / "vocab.model", "wordz");
  EXPECT_EQ(verify_checkpoint(path).size(), 1U);
}

// Blocks that leave a gap, overlap or contradict each other are refused, and nothing remains.
TEST(Checkpoint, CoverageAtSave) {
  const TempDir dir;
  const Json state;
  const comm::Communicator alone;
  const auto values = Example::counted(4);
  const auto refused = [&](const std::vector<BlockToSave>& blocks, const std::string& why) {
    const Error error = error_of([&] {
      save_checkpoint({dir.path(), 1, state, {}}, blocks, alone);
    });
    EXPECT_TRUE(contains(error.what(), why)) << error.what();
    EXPECT_TRUE(fs::is_empty(dir.path()));
  };
  refused({{"w", {5}, {0}, {4}, given(values)}}, "4 of its 5");
  refused({{"w", {5}, {0}, {4}, given(values)},
           {"w", {5}, {3}, {2}, given(std::span(values).first(2))}},
          "same elements");
  refused({{"w", {5}, {2}, {4}, given(values)}}, "outside");
  refused({{"w", {5}, {0}, {3}, given(values)}}, "4 values");
}

// Whatever a kill left behind, what is listed is complete, and the next save succeeds.
TEST(Checkpoint, KilledAtAnyStage) {
  const TempDir dir;
  const fs::path whole = save(dir.path(), 10);
  const std::vector<std::function<void()>> stages{
      [&] { fs::create_directory(dir / "step-00000020.tmp"); },
      [&] { fs::copy(whole, dir / "step-00000020.tmp"); },
      [&] { fs::copy(whole, dir / "step-00000020.replaced.tmp"); },
      [&] {
        fs::copy(whole, dir / "step-00000020");
        fs::remove(dir / "step-00000020" / "manifest.json");
      },
      [&] {
        fs::create_directory(dir / "step-00000020.tmp");
        testing::write_file(dir / "step-00000020.tmp" / "manifest.json.tmp", "{\"sch");
      }};
  for (const auto& stage : stages) {
    stage();
    EXPECT_EQ(complete_checkpoints(dir.path()), std::vector<fs::path>{whole});
    EXPECT_EQ(CheckpointReader::open(dir.path()).path(), whole);
    const fs::path next = save(dir.path(), 20);
    EXPECT_EQ(verify_checkpoint(next), std::vector<std::string>{});
    EXPECT_EQ(CheckpointReader::open(dir.path()).path(), next);
    fs::remove_all(next);
    prune_checkpoints(dir.path(), 2, 0);
    EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 2);  // whole, latest
  }
}

// Where a file system cannot exchange folders, a kill between two renames costs no step.
TEST(Checkpoint, PutBack) {
  const TempDir dir;
  const fs::path only = save(dir.path(), 10);
  const fs::path replaced = dir / "step-00000010.replaced.tmp";
  fs::rename(only, replaced);
  fs::copy(replaced, dir / "step-00000010.tmp");
  prune_checkpoints(dir.path(), 2, 0);  // it does not delete the last copy
  EXPECT_TRUE(complete_checkpoints(dir.path()).empty());
  put_back_replaced(dir.path());
  EXPECT_EQ(complete_checkpoints(dir.path()), std::vector<fs::path>{only});
  EXPECT_EQ(verify_checkpoint(only), std::vector<std::string>{});
  fs::copy(only, replaced);
  put_back_replaced(dir.path());  // the new one has come
  EXPECT_TRUE(fs::exists(replaced));
  prune_checkpoints(dir.path(), 2, 0);
  EXPECT_FALSE(fs::exists(replaced));
}

// The same step can be saved again.
TEST(Checkpoint, SavedTwice) {
  const TempDir dir;
  save(dir.path(), 10);
  EXPECT_EQ(verify_checkpoint(save(dir.path(), 10)), std::vector<std::string>{});
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 2);
}

// The newest `keep` stay, and those of every so many steps.
TEST(Checkpoint, Prune) {
  const TempDir dir;
  for (std::int64_t step = 10; step <= 60; step += 10) {
    save(dir.path(), step);
  }
  fs::create_directory(dir / "step-notes");
  fs::create_directory(dir / "step-00000060.replaced.tmp");
  prune_checkpoints(dir.path(), 2, 20);
  EXPECT_FALSE(fs::exists(dir / "step-00000060.replaced.tmp"));
  const std::vector<fs::path> kept{dir / "step-00000020", dir / "step-00000040",
                                   dir / "step-00000050", dir / "step-00000060"};
  EXPECT_EQ(complete_checkpoints(dir.path()), kept);
  prune_checkpoints(dir.path(), 0, 0);
  EXPECT_EQ(complete_checkpoints(dir.path()), std::vector<fs::path>{kept.back()});
  EXPECT_TRUE(fs::exists(dir / "step-notes"));
}

// A run that goes back saves steps before those that are there: these count no more, and stay.
TEST(Checkpoint, SetAsideLater) {
  const TempDir dir;
  for (const std::int64_t step : {10, 20, 30}) {
    save(dir.path(), step);
  }
  const std::vector<fs::path> others{dir / "step-00000020.1", dir / "step-00000030.1"};
  EXPECT_EQ(set_aside_later(dir.path(), 10), others);
  const fs::path next = save(dir.path(), 15);
  prune_checkpoints(dir.path(), 1, 0);
  EXPECT_EQ(complete_checkpoints(dir.path()), std::vector<fs::path>{next});
  for (const fs::path& other : others) {
    EXPECT_EQ(verify_checkpoint(other), std::vector<std::string>{});
  }
}

// Nothing to read is kNoInput; a damaged checkpoint names file and remedy.
TEST(Checkpoint, Damage) {
  const TempDir dir;
  EXPECT_EQ(error_of([&] { CheckpointReader::open(dir.path()); }).code(), Exit::kNoInput);
  EXPECT_EQ(error_of([&] { CheckpointReader::open(dir / "none"); }).code(), Exit::kNoInput);
  const fs::path path = save(dir.path(), 1);
  const std::string manifest = testing::read_file(path / "manifest.json");
  const auto expect = [&](const Error& error, const std::string& file) {
    EXPECT_EQ(error.code(), Exit::kBadData);
    EXPECT_TRUE(contains(error.what(), (path / file).string())) << error.what();
    EXPECT_TRUE(contains(error.what(), "delete")) << error.what();
  };
  testing::write_file(path / "manifest.json", manifest.substr(0, manifest.size() / 2));
  expect(error_of([&] { CheckpointReader::open(dir.path()); }), "manifest.json");
  std::string other = manifest;
  other.replace(other.find("42"), 2, "43");
  testing::write_file(path / "manifest.json", other);
  expect(error_of([&] { CheckpointReader::open(dir.path()); }), "manifest.json");

  testing::write_file(path / "manifest.json", manifest);
  const fs::path part = path / "part-00000.h5";
  const float last = 47.0F;  // of the cube
  const std::string bytes(reinterpret_cast<const char*>(&last), sizeof(last));
  testing::flip_bit(part, static_cast<std::int64_t>(testing::read_file(part).rfind(bytes)));
  std::vector<float> values(48);
  const auto read = [&] {
    CheckpointReader::open(path).read("cube", {0, 0, 0, 0}, {2, 3, 2, 4}, values);
  };
  expect(error_of(read), "part-00000.h5");
  EXPECT_EQ(verify_checkpoint(path).size(), 1U);
  fs::resize_file(part, fs::file_size(part) - 1);
  expect(error_of(read), "part-00000.h5");
  fs::remove(part);
  expect(error_of(read), "part-00000.h5");
  EXPECT_GE(verify_checkpoint(path).size(), 2U);
}

/// Makes every write beyond `bytes` of a file fail, as a full disk does, while it lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

// A save that cannot be written leaves the older ones alone, cleans up, and the next one works.
TEST(Checkpoint, WriteFails) {
  const TempDir dir;
  const fs::path older = save(dir.path(), 1);
  const std::vector<float> large(100'000, 1.0F);
  const std::vector<BlockToSave> blocks{{"w", {100'000}, {0}, {100'000}, given(large)}};
  const Json state;
  const comm::Communicator alone;
  const auto save_large = [&] {
    return save_checkpoint({dir.path(), 2, state, {}}, blocks, alone);
  };
  for (const rlim_t bytes : {rlim_t{0}, rlim_t{3000}, rlim_t{100'000}}) {
    const FileSizeLimit limit(bytes);
    const Error error = error_of(save_large);
    EXPECT_EQ(error.code(), Exit::kIoError);
    EXPECT_TRUE(contains(error.what(), "File too large")) << error.what();
    EXPECT_TRUE(contains(error.what(), "bytes needed")) << error.what();
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 2);
  EXPECT_EQ(verify_checkpoint(older), std::vector<std::string>{});
  EXPECT_EQ(verify_checkpoint(save_large()), std::vector<std::string>{});
}

}  // namespace
}  // namespace moesaic::checkpoint
