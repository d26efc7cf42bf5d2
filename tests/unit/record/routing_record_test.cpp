#include "record/routing_record.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "base/error.h"
#include "files/hdf5/file.h"
#include "files/hdf5/thread.h"
#include "support/temp_dir.h"

namespace moesaic::record {
namespace {

using moesaic::testing::TempDir;

constexpr std::int64_t kLayers = 2, kChoices = 2, kRows = 1500;

// Chunks hold three steps.
RoutingAxes axes_of() {
  return {.moe_layers = {1, 3},
          .experts = 4,
          .choices = kChoices,
          .step_rows = kRows,
          .tasks = {"none", "code"},
          .corpora = {"web"},
          .attributes = {{"config_sha256", "abc"}}};
}

/// What a rank with the micro-batch [first, first + count) has of a step.
RoutingPart part_of(std::int64_t step, std::int64_t first, std::int64_t count) {
  RoutingPart part;
  for (std::int64_t layer = 0; layer < kLayers; ++layer) {
    routing::RoutedRows rows{
        .layer = layer, .first = first, .chosen = {}, .target = {}, .weight = {}, .fate = {}};
    for (std::int64_t row = first; row < first + count; ++row) {
      const auto expert = static_cast<std::int16_t>((row + layer + step) % 3);
      rows.chosen.insert(rows.chosen.end(), {expert, static_cast<std::int16_t>(3)});
      rows.target.insert(rows.target.end(), {expert, static_cast<std::int16_t>(-1)});
      rows.weight.insert(rows.weight.end(), {static_cast<float>(row), 0.25F});
      rows.fate.insert(rows.fate.end(), {0, 3});
    }
    part.routed.push_back(rows);
  }
  routing::TokenRows tokens;
  tokens.first = first;
  for (std::int64_t row = first; row < first + count; ++row) {
    tokens.document.push_back(step);
    tokens.position.push_back(row);
    tokens.token.push_back(static_cast<std::int32_t>(row % 256));
    tokens.corpus.push_back(0);
    tokens.task.push_back(1);
  }
  part.tokens.push_back(tokens);
  return part;
}

RoutingPart both(RoutingPart a, const RoutingPart& b) {
  a.routed.insert(a.routed.end(), b.routed.begin(), b.routed.end());
  a.tokens.insert(a.tokens.end(), b.tokens.begin(), b.tokens.end());
  return a;
}

void add_steps(RoutingWriter& writer, std::int64_t first, std::int64_t last) {
  for (std::int64_t step = first; step <= last; ++step) {
    writer.add(step, kRows, both(part_of(step, 700, 800), part_of(step, 0, 700)));
  }
  writer.sync();
}

template <class T>
std::vector<T> read(const std::filesystem::path& path, const std::string& name) {
  return files::hdf5_run([&] { return files::Hdf5File::open(path).read_all<T>(name); });
}

// Parts in any order land at their rows, in chunks that hold several steps or a part of one.
TEST(RoutingRecord, Append) {
  const TempDir dir;
  const comm::Communicator alone;
  const auto path = dir / "below" / "t.routing.h5";
  RoutingWriter writer = RoutingWriter::create(path, axes_of(), alone);
  add_steps(writer, 1, 7);
  EXPECT_EQ(verify_routing(path), std::vector<std::string>{});
  EXPECT_EQ(read<std::int64_t>(path, "/steps/offset").back(), 7 * kRows);
  const auto positions = read<std::int64_t>(path, "/tokens/position");
  const auto chosen = read<std::int16_t>(path, "/chosen");
  const auto weight = read<float>(path, "/weight");
  for (std::int64_t i = 0; i < 7 * kRows; ++i) {
    const auto at = static_cast<std::size_t>(i);
    ASSERT_EQ(positions[at], i % kRows);
    ASSERT_EQ(chosen[at * 4 + 2], (i % kRows + 1 + i / kRows + 1) % 3) << i;
    ASSERT_EQ(weight[at * 4 + 2], static_cast<float>(i % kRows));
  }
}

// xarray opens a record: every axis has a name, and the rows take no space of their own.
TEST(RoutingRecord, OpensElsewhere) {
  const TempDir dir;
  const comm::Communicator alone;
  const auto path = dir / "t.routing.h5";
  RoutingWriter writer = RoutingWriter::create(path, axes_of(), alone);
  add_steps(writer, 1, 2);
  const std::string script =
      "import xarray as x, sys; f = x.open_dataset(sys.argv[1]); t = x.open_dataset(sys.argv[1], "
      "group='tokens'); s = x.open_dataset(sys.argv[1], group='steps'); "
      "sys.exit(not (dict(f.chosen.sizes) == dict(row=3000, layer=2, choice=2) and 'row' not in "
      "f.coords and t.position.sizes['row'] == 3000 and list(s.offset.values) == [0, 1500, 3000]))";
  // NOLINTBEGIN(cert-env33-c): fixed commands
  if (std::system("/usr/bin/python3 -c 'import xarray, h5netcdf' 2> /dev/null") != 0) {
    GTEST_SKIP() << "xarray or h5netcdf is missing";
  }
  EXPECT_EQ(
      std::system(fmt::format("/usr/bin/python3 -c \"{}\" {}", script, path.string()).c_str()), 0);
  // NOLINTEND(cert-env33-c)
}

// After a restart the steps past the checkpoint are gone, and so is what a kill left of one.
TEST(RoutingRecord, ResumeCuts) {
  const TempDir dir;
  const comm::Communicator alone;
  const auto path = dir / "t.routing.h5";
  RoutingWriter first = RoutingWriter::create(path, axes_of(), alone);
  add_steps(first, 1, 6);
  files::hdf5_run([&] {
    files::Hdf5File file = files::Hdf5File::open_to_write(path);
    file.extend("/chosen", {7 * kRows, kLayers, kChoices});
    file.close();
  });
  EXPECT_EQ(verify_routing(path), std::vector<std::string>{});
  RoutingWriter again = RoutingWriter::resume(path, axes_of(), alone, 4);
  EXPECT_EQ(read<std::int16_t>(path, "/chosen").size(), 4U * 1500U * 4U);
  add_steps(again, 5, 5);
  EXPECT_EQ(read<std::int64_t>(path, "/steps/step"), (std::vector<std::int64_t>{1, 2, 3, 4, 5}));
  RoutingWriter whole = RoutingWriter::create(dir / "whole.h5", axes_of(), alone);
  add_steps(whole, 1, 5);
  for (const char* const name : {"/chosen", "/target", "/fate", "/tokens/document"}) {
    EXPECT_EQ(read<std::int64_t>(path, name), read<std::int64_t>(dir / "whole.h5", name)) << name;
  }
}

// A record of other layers is refused; a damaged one, or one of another run, is set aside.
TEST(RoutingRecord, OtherFiles) {
  const TempDir dir;
  const comm::Communicator alone;
  const auto path = dir / "t.routing.h5";
  RoutingWriter first = RoutingWriter::create(path, axes_of(), alone);
  add_steps(first, 1, 2);
  RoutingAxes other = axes_of();
  other.moe_layers = {1};
  EXPECT_THROW(RoutingWriter::resume(path, other, alone, 2), Error);
  RoutingWriter::create(path, axes_of(), alone);
  EXPECT_EQ(read<std::int64_t>(path.string() + ".1", "/steps/step").size(), 2U);
  std::filesystem::resize_file(path, 300);
  RoutingWriter::resume(path, axes_of(), alone, 2);
  EXPECT_EQ(verify_routing(path), std::vector<std::string>{});
  EXPECT_TRUE(std::filesystem::exists(path.string() + ".2"));
}

// Each law that a row must obey is judged.
TEST(RoutingRecord, VerifyFindsDamage) {
  const TempDir dir;
  const comm::Communicator alone;
  struct Case {
    const char* dataset;
    std::int64_t choice, value;
  };
  for (const Case& damage : {Case{"/chosen", 0, 9}, Case{"/chosen", 0, 3}, Case{"/chosen", 0, -1},
                             Case{"/target", 0, 3}, Case{"/target", 1, 2}, Case{"/fate", 0, 1},
                             Case{"/fate", 1, 2}, Case{"/fate", 1, 4}, Case{"/chosen", 1, -1}}) {
    const auto path = dir / "t.routing.h5";
    RoutingWriter writer = RoutingWriter::create(path, axes_of(), alone);
    add_steps(writer, 1, 2);
    files::hdf5_run([&] {
      files::Hdf5File file = files::Hdf5File::open_to_write(path);
      file.write<std::int64_t>(damage.dataset, {1600, 1, damage.choice}, {1, 1, 1},
                               std::vector<std::int64_t>{damage.value});
      file.close();
    });
    const auto problems = verify_routing(path);
    ASSERT_EQ(problems.size(), 1U) << damage.dataset << damage.value;
    EXPECT_NE(problems[0].find("step 2 layer 1 token 100"), std::string::npos) << problems[0];
  }
  const auto path = dir / "t.routing.h5";
  files::hdf5_run([&] {
    files::Hdf5File file = files::Hdf5File::open_to_write(path);
    file.write<std::int64_t>("/steps/offset", {1}, {1}, std::vector<std::int64_t>{4000});
    file.close();
  });
  EXPECT_FALSE(verify_routing(path).empty());
}

}  // namespace
}  // namespace moesaic::record
