// Readers of checkpoints, traces and shards against files that were cut or changed anywhere: an
// error that says so, or the right data; never a crash, never wrong data without a word.
#include <gtest/gtest.h>

#include <functional>
#include <numeric>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "files/hdf5/file.h"
#include "files/hdf5/thread.h"
#include "record/trace.h"
#include "support/temp_dir.h"

namespace moesaic::checkpoint {
namespace {

namespace fs = std::filesystem;
using moesaic::testing::TempDir;

/// Runs `read` on each spoilt version of the file; it must throw an input error or return true.
void expect_told(const fs::path& file, const std::vector<std::string>& versions,
                 const std::function<bool()>& read) {
  for (std::size_t i = 0; i < versions.size(); ++i) {
    testing::write_file(file, versions[i]);
    try {
      EXPECT_TRUE(read()) << "wrong data, version " << i;
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == Exit::kBadData || error.code() == Exit::kNoInput)
          << "version " << i << ": " << error.what();
      EXPECT_NE(std::string(error.what()).find(file.filename().string()), std::string::npos)
          << error.what();
    }
  }
}

std::vector<std::string> cut_versions(const std::string& good, std::size_t count) {
  std::vector<std::string> versions;
  for (std::size_t i = 0; i < count; ++i) {
    versions.push_back(good.substr(0, good.size() * i / count));
  }
  return versions;
}

std::vector<std::string> flipped_versions(const std::string& good, std::size_t stride) {
  std::vector<std::string> versions;
  for (std::size_t at = 0; at < good.size(); at += stride) {
    versions.push_back(good);
    versions.back()[at] = static_cast<char>(good[at] ^ static_cast<char>(1U << (at % 7U)));
  }
  return versions;
}

std::vector<float> counted(std::size_t count) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), 1.0F);
  return values;
}

// Part and manifest of a checkpoint: sizes and checksums find every change.
TEST(Damage, Checkpoint) {
  const TempDir dir;
  const auto values = counted(600);
  const Json state{{"step", 7}};
  const std::vector<BlockToSave> blocks{
      {"w", {20, 30}, {0, 0}, {10, 30}, given(std::span(values).first(300))},
      {"w", {20, 30}, {10, 0}, {10, 30}, given(std::span(values).last(300))}};
  const auto path = save_checkpoint({dir.path(), 7, state, {}}, blocks, comm::Communicator());
  const auto read = [&] {
    CheckpointReader reader = CheckpointReader::open(path);
    std::vector<float> out(600);
    reader.read("w", {0, 0}, {20, 30}, out);
    return out == values && reader.state() == state;
  };
  ASSERT_TRUE(read());
  for (const char* name : {"manifest.json", "part-00000.h5"}) {
    const std::string good = testing::read_file(path / name);
    expect_told(path / name, cut_versions(good, 60), read);
    expect_told(path / name, flipped_versions(good, 23), read);
    testing::write_file(path / name, good);
  }
  EXPECT_TRUE(read());
}

// A dataset with Fletcher32, as a shard's tokens.
TEST(Damage, Shard) {
  const TempDir dir;
  const fs::path file = dir / "shard.h5";
  const auto values = counted(2000);
  files::hdf5_run([&] {
    files::Hdf5File shard = files::Hdf5File::create(file);
    files::Hdf5File::Layout layout;
    layout.chunk = {500};
    layout.checksum = true;
    shard.create_dataset<std::uint16_t>("/tokens", {2000}, layout);
    shard.write<float>("/tokens", {0}, {2000}, values);
    shard.close();
  });
  const auto read = [&] {
    return files::hdf5_run(
        [&] { return files::Hdf5File::open(file).read_all<float>("/tokens") == values; });
  };
  const std::string good = testing::read_file(file);
  expect_told(file, cut_versions(good, 60), read);
  // The raw data only: HDF5 does not protect its own structures with checksums.
  const std::size_t data = good.find(std::string("\x01\x00\x02\x00\x03\x00", 6));
  ASSERT_NE(data, std::string::npos);
  std::vector<std::string> versions;
  for (std::size_t at = data; at < data + 1000; at += 13) {
    versions.push_back(good);
    versions.back()[at] ^= 4;
    versions.push_back(versions.back());
    versions.back()[at] ^= 64;
  }
  expect_told(file, versions, read);
}

// A trace cut anywhere is reported, and can be resumed past.
TEST(Damage, Trace) {
  const TempDir dir;
  const fs::path file = dir / "t.h5";
  record::TraceAxes axes;
  axes.phases = {"other"};
  record::TraceWriter trace = record::TraceWriter::create(file, axes, 1e9);
  record::TraceRow row;
  row.step = 1;
  row.time = row.time_mean = row.rank_seconds = {0.0};
  trace.add(row);
  trace.write_all();
  ASSERT_EQ(record::verify_trace(file), std::vector<std::string>{});
  const std::string good = testing::read_file(file);
  for (const std::string& version : cut_versions(good, 40)) {
    testing::write_file(file, version);
    const auto problems = record::verify_trace(file);
    ASSERT_EQ(problems.size(), 1U) << version.size();
    EXPECT_NE(problems[0].find("t.h5"), std::string::npos) << problems[0];
  }
  record::TraceWriter again = record::TraceWriter::resume(file, axes, 1e9, 0);
  again.add(row);
  again.write_all();
  EXPECT_EQ(record::verify_trace(file), std::vector<std::string>{});
}

}  // namespace
}  // namespace moesaic::checkpoint
