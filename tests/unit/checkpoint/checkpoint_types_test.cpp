// Checkpoints whose blocks are not fp32: what is read again, in part or as a whole, and what is
// told of damage.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/manifest.h"
#include "files/hdf5/file.h"
#include "files/hdf5/thread.h"
#include "support/temp_dir.h"
#include "tensor/bf16.h"

namespace moesaic::checkpoint {
namespace {

namespace fs = std::filesystem;
using moesaic::testing::TempDir;

/// Codes that differ from place to place.
QuantizedRows example(DType type, std::int64_t rows, std::int64_t columns) {
  QuantizedRows q = QuantizedRows::zeros(type, rows, columns);
  for (std::size_t i = 0; i < q.scales.size(); ++i) {
    q.scales[i] = 0.5F + static_cast<float>(i);
  }
  for (std::size_t i = 0; i < q.steps.size(); i += 2) {
    q.steps[i] = static_cast<std::uint8_t>(1 + i / 2 % 15);
    q.steps[i + 1] = static_cast<std::uint8_t>(i % 31);
  }
  const std::int64_t codes = type == DType::kInt8 ? 255 : 16;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t k = 0; k < columns; ++k) {
      const std::int64_t code = (31 * row + 7 * k) % codes;
      q.set_code(row, k, static_cast<std::uint8_t>(type == DType::kInt8 ? 1 + code : code));
    }
  }
  return q;
}

std::vector<float> decoded(const QuantizedRows& rows) {
  std::vector<float> values(static_cast<std::size_t>(rows.rows * rows.columns));
  rows.decode(values);
  return values;
}

BlockToSave block(const std::string& name, const QuantizedRows& rows) {
  const files::Extents extent{rows.rows, rows.columns};
  return {.name = name,
          .shape = extent,
          .offset = {0, 0},
          .extent = extent,
          .values = {},
          .type = rows.type == DType::kInt8 ? DType::kInt8 : DType::kInt4,
          .rows = [rows] { return rows; }};
}

BlockToSave block(const std::string& name, const std::vector<float>& values, DType type) {
  return {.name = name,
          .shape = {std::ssize(values)},
          .offset = {0},
          .extent = {std::ssize(values)},
          .values = given(values),
          .type = type};
}

fs::path save(const fs::path& dir, const std::vector<BlockToSave>& blocks) {
  const Json state{{"step", 0}};
  return save_checkpoint({dir, 0, state, {}}, blocks, comm::Communicator());
}

template <class F>
std::pair<Exit, std::string> error_of(const F& work) {
  try {
    work();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {Exit::kDone, "nothing was thrown"};
}

// Protects: any slice of a quantized tensor is what its codes say; a block-aligned slice comes as
// the very codes.
TEST(CheckpointTypes, Quantized) {
  for (const DType type : {DType::kInt8, DType::kInt4}) {
    const TempDir dir;
    const QuantizedRows rows = example(type, 5, 523);
    const std::vector<float> whole = decoded(rows);
    const fs::path path = save(dir.path(), {block("w", rows)});
    EXPECT_EQ(verify_checkpoint(path), std::vector<std::string>{});
    CheckpointReader reader = CheckpointReader::open(path);
    EXPECT_EQ(reader.quantized("w"), type);
    const QuantizedRows all = reader.read_quantized("w", {0, 0}, {5, 523});
    EXPECT_EQ(all.codes, rows.codes);
    EXPECT_EQ(all.scales, rows.scales);
    EXPECT_EQ(all.steps, rows.steps);
    for (const auto& [offset, extent] :
         {std::pair<files::Extents, files::Extents>{{1, 256}, {3, 267}},
          {{0, 256}, {2, 11}},
          {{4, 0}, {1, 7}}}) {
      std::vector<float> part(static_cast<std::size_t>(volume(extent)));
      reader.read("w", offset, extent, part);
      EXPECT_EQ(decoded(reader.read_quantized("w", offset, extent)), part);
      for (std::int64_t i = 0; i < std::ssize(part); ++i) {
        const std::int64_t at = (offset[0] + i / extent[1]) * 523 + offset[1] + i % extent[1];
        ASSERT_EQ(part[static_cast<std::size_t>(i)], whole[static_cast<std::size_t>(at)]);
      }
    }
    std::vector<float> between(10);
    reader.read("w", {2, 250}, {1, 10}, between);
    EXPECT_EQ(between,
              std::vector<float>(whole.begin() + 2 * 523 + 250, whole.begin() + 2 * 523 + 260));
  }
}

// Protects: 16 bits hold what they can, rounded to nearest, and a tensor that does not fit is
// named.
TEST(CheckpointTypes, SixteenBits) {
  const TempDir dir;
  const std::vector<float> values{1.0F, -0.333333F, 65504.0F, 1e-7F, 0.0F};
  const fs::path path =
      save(dir.path(), {block("half", values, DType::kF16), block("brain", values, DType::kBf16),
                        block("full", values, DType::kF32)});
  EXPECT_EQ(verify_checkpoint(path), std::vector<std::string>{});
  CheckpointReader reader = CheckpointReader::open(path);
  std::vector<float> read(values.size());
  reader.read("half", {0}, {5}, read);
  EXPECT_EQ(read[0], 1.0F);
  EXPECT_EQ(read[1], -1365.0F / 4096.0F);
  EXPECT_EQ(read[2], 65504.0F);
  EXPECT_EQ(read[3], 2.0F / 16777216.0F);
  reader.read("brain", {0}, {5}, read);
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(read[i], static_cast<float>(BFloat16(values[i])));
  }
  reader.read("full", {0}, {5}, read);
  EXPECT_EQ(read, values);
  EXPECT_FALSE(reader.quantized("half").has_value());
  for (const float bad : {65520.0F, -1e6F, std::numeric_limits<float>::quiet_NaN()}) {
    const std::vector<float> beyond{1.0F, bad};
    const auto [code, text] =
        error_of([&] { save(dir.path(), {block("layer.w", beyond, DType::kF16)}); });
    EXPECT_EQ(code, Exit::kBadNumbers);
    EXPECT_NE(text.find("layer.w: element 1"), std::string::npos) << text;
    EXPECT_NE(text.find("65504"), std::string::npos) << text;
  }
}

// Protects: what is fp32 alone is still a file of version 1, which older programs read.
TEST(CheckpointTypes, Versions) {
  const TempDir dir;
  const std::vector<float> values{1.0F};
  const auto version = [&](DType type) {
    const fs::path path = save(dir.path(), {block("w", values, type)});
    return Json::parse(testing::read_file(path / kManifestName)).at("version").get<int>();
  };
  EXPECT_EQ(version(DType::kF32), 1);
  EXPECT_EQ(version(DType::kBf16), 2);
}

// Protects: damaged codes, scales and steps are told by tensor and file, whether or not the sum in
// the manifest was forged to suit them.
TEST(CheckpointTypes, Damage) {
  for (const char* const array : {"codes", "scales", "steps"}) {
    const TempDir dir;
    const fs::path path = save(dir.path(), {block("w", example(DType::kInt4, 3, 300))});
    files::hdf5_run([&] {
      files::Hdf5File file = files::Hdf5File::open_to_write(path / "part-00000.h5");
      const std::string name = std::string("/w[0,0]/") + array;
      if (std::string(array) == "scales") {
        const std::vector<float> bad{std::numeric_limits<float>::quiet_NaN()};
        file.write<float>(name, {0, 0}, {1, 1}, bad);
      } else {
        const std::vector<std::uint8_t> bad{255};
        const bool codes = std::string(array) == "codes";
        const files::Extents first = codes ? files::Extents{0, 0} : files::Extents{0, 0, 0};
        file.write<std::uint8_t>(name, first, files::Extents(first.size(), 1), bad);
      }
      file.close();
    });
    const auto read = [&] { CheckpointReader::open(path).read_quantized("w", {0, 0}, {3, 300}); };
    const auto [code, text] = error_of(read);
    EXPECT_EQ(code, Exit::kBadData);
    EXPECT_NE(text.find("part-00000.h5: w at [0, 0] is damaged: its sha256 is"), std::string::npos)
        << text;
    EXPECT_EQ(verify_checkpoint(path).size(), 1U) << array;
    const std::string sum = text.substr(text.find("sha256 is ") + 10, 64);
    Manifest manifest = read_manifest(path);
    manifest.tensors.at("w").blocks.front().sha256 = sum;
    testing::write_file(path / kManifestName, to_text(manifest));
    const auto [forged_code, forged] = error_of(read);
    if (std::string(array) == "codes") {  // each of which is possible
      EXPECT_EQ(forged_code, Exit::kDone) << forged;
    } else {
      EXPECT_EQ(forged_code, Exit::kBadData);
      EXPECT_NE(forged.find("[0, 0]"), std::string::npos) << forged;
    }
  }
}

// Protects: a manifest cannot make the reader cut through a scale, or ask for memory that no file
// has.
TEST(CheckpointTypes, ManifestsThatCannotBe) {
  const TempDir dir;
  const fs::path path = save(dir.path(), {block("w", example(DType::kInt4, 3, 300))});
  const Manifest good = read_manifest(path);
  const auto refused = [&](const auto& spoil) {
    Manifest manifest = good;
    spoil(manifest.tensors.at("w"));
    testing::write_file(path / kManifestName, to_text(manifest));
    const auto [code, text] = error_of([&] { CheckpointReader::open(path); });
    EXPECT_EQ(code, Exit::kBadData) << text;
    EXPECT_NE(text.find("manifest.json"), std::string::npos) << text;
  };
  refused([](StoredTensor& w) { w.blocks[0].extent = {3, 200}; });
  refused([](StoredTensor& w) {
    w.blocks[0].offset = {0, 32};
    w.blocks[0].extent = {3, 268};
  });
  refused([](StoredTensor& w) { w.shape = w.blocks[0].extent = {1 << 30, 300}; });
  refused([](StoredTensor& w) {
    w.shape = w.blocks[0].extent = {900};
    w.blocks[0].offset = {0};
  });
}

}  // namespace
}  // namespace moesaic::checkpoint
