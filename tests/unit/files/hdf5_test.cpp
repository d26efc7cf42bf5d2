#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <cmath>
#include <numeric>

#include "base/error.h"
#include "files/hdf5/async.h"
#include "files/hdf5/file.h"
#include "files/hdf5/thread.h"
#include "support/temp_dir.h"

namespace moesaic::files {
namespace {

using moesaic::testing::TempDir;

/// The Error that work throws on the HDF5 thread; fails the test if none.
Error error_of(const std::function<void()>& work) {
  try {
    hdf5_run(work);
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return {Exit::kDone, ""};
}

bool contains(const Error& error, const std::string& text) {
  return std::string(error.what()).find(text) != std::string::npos;
}

std::vector<std::int32_t> counted(std::size_t count) {
  std::vector<std::int32_t> values(count);
  std::iota(values.begin(), values.end(), 0);
  return values;
}

void write_shard(const std::filesystem::path& path, std::int64_t count) {
  hdf5_run([&] {
    Hdf5File file = Hdf5File::create(path);
    Hdf5File::Layout layout;
    layout.chunk = {100};
    layout.checksum = true;
    file.create_dataset<std::uint16_t>("/group/tokens", {count}, layout);
    const auto values = counted(static_cast<std::size_t>(count));
    file.write<std::int32_t>("/group/tokens", {0}, {count}, values);
    file.close();
  });
}

// What is written is read back, in blocks and through conversion.
TEST(Hdf5, RoundTrip) {
  const TempDir dir;
  write_shard(dir / "a.h5", 250);
  hdf5_run([&] {
    const Hdf5File file = Hdf5File::open(dir / "a.h5");
    EXPECT_EQ(file.type_of("/group/tokens"), "u2");
    EXPECT_EQ(file.extents("/group/tokens"), Extents{250});
    EXPECT_EQ(file.members("/group"), std::vector<std::string>{"tokens"});
    EXPECT_TRUE(file.has("/group"));
    EXPECT_FALSE(file.has("/group/none/below"));
    std::vector<std::int64_t> block(120);
    file.read<std::int64_t>("/group/tokens", {90}, {120}, block);
    EXPECT_EQ(block.front(), 90);
    EXPECT_EQ(block.back(), 209);
  });
}

// A block of a 2-D dataset is the right one, and growth leaves what is there.
TEST(Hdf5, BlocksAndGrowth) {
  const TempDir dir;
  hdf5_run([&] {
    Hdf5File file = Hdf5File::create(dir / "a.h5");
    Hdf5File::Layout layout;
    layout.chunk = {2, 2};
    layout.all_unlimited = true;
    file.create_dataset<double>("/x", {2, 2}, layout);
    file.write<double>("/x", {0, 0}, {2, 2}, std::vector<double>{0, 1, 2, 3});
    file.extend("/x", {3, 3});
    file.write<double>("/x", {1, 1}, {1, 2}, std::vector<double>{10, 11});
    const auto all = file.read_all<double>("/x");
    EXPECT_EQ(std::vector<double>(all.begin(), all.begin() + 2), (std::vector<double>{0, 1}));
    EXPECT_EQ(std::vector<double>(all.begin() + 3, all.begin() + 6),
              (std::vector<double>{2, 10, 11}));
    EXPECT_TRUE(std::isnan(all[8]));
  });
}

// Attributes keep their types, replace each other, and say clearly when they do not suit.
TEST(Hdf5, Attributes) {
  const TempDir dir;
  hdf5_run([&] {
    Hdf5File file = Hdf5File::create(dir / "a.h5");
    file.set_attribute("/", "schema", std::string("old"));
    file.set_attribute("/", "schema", std::string("größer"));
    file.set_attribute("/", "version", std::int64_t{3});
    file.set_attribute("/", "share", 0.25);
    file.set_attribute("/", "names", std::vector<std::string>{"a", "", "c"});
    EXPECT_EQ(file.string_attribute("/", "schema"), "größer");
    EXPECT_EQ(file.int_attribute("/", "version"), 3);
    EXPECT_EQ(file.double_attribute("/", "share"), 0.25);
    EXPECT_EQ(file.strings_attribute("/", "names"), (std::vector<std::string>{"a", "", "c"}));
    file.set_attribute("/", "layers", std::vector<std::int64_t>{1, 3});
    EXPECT_EQ(file.ints_attribute("/", "layers"), (std::vector<std::int64_t>{1, 3}));
    file.set_attribute("/", "empty", std::vector<std::int64_t>{});
    EXPECT_TRUE(file.ints_attribute("/", "empty").empty());
    EXPECT_FALSE(file.has_attribute("/", "none"));
  });
  const Error missing = error_of([&] { Hdf5File::open(dir / "a.h5").int_attribute("/", "none"); });
  EXPECT_EQ(missing.code(), Exit::kBadData);
  EXPECT_TRUE(contains(missing, "'none'"));
  const Error text = error_of([&] { Hdf5File::open(dir / "a.h5").int_attribute("/", "schema"); });
  EXPECT_TRUE(contains(text, "holds no whole number"));
}

// An attribute may be longer than the 64 KiB of an old header, and it is replaced in a file that is
// opened again, among more attributes than a header holds.
TEST(Hdf5, LongAttributes) {
  const TempDir dir;
  const std::string config(200'000, 'x'), longer(300'000, 'y');
  hdf5_run([&] {
    Hdf5File file = Hdf5File::create(dir / "a.h5");
    for (int i = 0; i < 40; ++i) {
      file.set_attribute("/", "key" + std::to_string(i), std::string("value"));
    }
    file.set_attribute("/", "config", config);
    file.close();
    Hdf5File again = Hdf5File::open_to_write(dir / "a.h5");
    EXPECT_EQ(again.string_attribute("/", "config"), config);
    again.set_attribute("/", "config", longer);
    again.set_attribute("/", "key7", std::string(1000, 'z'));
    again.set_attribute("/", "key8", std::string());
    again.close();
    const Hdf5File read = Hdf5File::open(dir / "a.h5");
    EXPECT_EQ(read.string_attribute("/", "config"), longer);
    EXPECT_EQ(read.string_attribute("/", "key7"), std::string(1000, 'z'));
    EXPECT_EQ(read.string_attribute("/", "key8"), "");
    EXPECT_EQ(read.string_attribute("/", "key9"), "value");
  });
}

// Strings survive, also appended.
TEST(Hdf5, Strings) {
  const TempDir dir;
  hdf5_run([&] {
    Hdf5File file = Hdf5File::create(dir / "a.h5");
    file.write_strings("/names", {"data", "ünï", ""});
    EXPECT_EQ(file.read_strings("/names"), (std::vector<std::string>{"data", "ünï", ""}));
    file.create_strings("/log", 5, {.chunk = {4}, .unlimited = true});
    file.extend("/log", {3});
    file.write_strings("/log", 0, {"one"});
    file.write_strings("/log", 1, {"two", "three"});
    EXPECT_EQ(file.read_strings("/log"), (std::vector<std::string>{"one", "two", "three"}));
    EXPECT_EQ(file.type_of("/log"), "string");
    EXPECT_EQ(file.string_width("/names"), 5);  // bytes of "ünï"
    file.write_strings("/none", {});
    EXPECT_TRUE(file.read_strings("/none").empty());
    EXPECT_THROW(file.write_strings("/log", 0, {"longer"}), Error);
  });
}

// Equal data make equal files, whenever they are written.
TEST(Hdf5, ByteIdentical) {
  const TempDir dir;
  write_shard(dir / "a.h5", 250);
  ::utimensat(AT_FDCWD, (dir / "a.h5").c_str(), nullptr, 0);
  write_shard(dir / "b.h5", 250);
  EXPECT_EQ(testing::read_file(dir / "a.h5"), testing::read_file(dir / "b.h5"));
}

// A block outside the dataset, a wrong kind of number, a missing object: errors that name it.
TEST(Hdf5, Misuse) {
  const TempDir dir;
  write_shard(dir / "a.h5", 250);
  std::vector<std::int32_t> out(10);
  const Error outside = error_of(
      [&] { Hdf5File::open(dir / "a.h5").read<std::int32_t>("/group/tokens", {245}, {10}, out); });
  EXPECT_EQ(outside.code(), Exit::kBadData);
  EXPECT_TRUE(contains(outside, "/group/tokens"));
  EXPECT_TRUE(contains(outside, "250"));
  const Error missing =
      error_of([&] { Hdf5File::open(dir / "a.h5").read_all<std::int32_t>("/none"); });
  EXPECT_TRUE(contains(missing, "/none: is missing"));
  const Error group =
      error_of([&] { Hdf5File::open(dir / "a.h5").read_all<std::int32_t>("/group"); });
  EXPECT_TRUE(contains(group, "not a dataset"));
}

// Each way in which a file is not a sound HDF5 file has its words and its code.
TEST(Hdf5, DamagedFiles) {
  const TempDir dir;
  const auto open = [&](const std::string& name) {
    return error_of(
        [&, name] { Hdf5File::open(dir / name).read_all<std::int32_t>("/group/tokens"); });
  };
  EXPECT_EQ(open("none.h5").code(), Exit::kNoInput);
  testing::write_file(dir / "text.h5", "no HDF5 at all");
  EXPECT_EQ(open("text.h5").code(), Exit::kBadData);
  EXPECT_TRUE(contains(open("text.h5"), "is not an HDF5 file"));
  testing::write_file(dir / "empty.h5", "");
  EXPECT_TRUE(contains(open("empty.h5"), "is empty"));
  std::filesystem::create_directory(dir / "folder.h5");
  EXPECT_EQ(open("folder.h5").code(), Exit::kNoInput);

  write_shard(dir / "cut.h5", 5000);
  std::filesystem::resize_file(dir / "cut.h5", std::filesystem::file_size(dir / "cut.h5") - 1000);
  EXPECT_EQ(open("cut.h5").code(), Exit::kBadData);
  EXPECT_TRUE(contains(open("cut.h5"), "truncated"));

  write_shard(dir / "flip.h5", 5000);
  testing::flip_bit(dir / "flip.h5", -100);
  EXPECT_EQ(open("flip.h5").code(), Exit::kBadData);
  EXPECT_TRUE(contains(open("flip.h5"), "Fletcher32"));
}

// A lock held by another is told apart from damage.
TEST(Hdf5, Locked) {
  const TempDir dir;
  write_shard(dir / "a.h5", 10);
  const int descriptor = ::open((dir / "a.h5").c_str(), O_RDONLY);
  ASSERT_EQ(::flock(descriptor, LOCK_SH), 0);
  hdf5_run([&] {
    EXPECT_FALSE(Hdf5File::open_unless_locked(dir / "a.h5").has_value());
    EXPECT_NO_THROW(Hdf5File::open(dir / "a.h5"));
  });
  EXPECT_TRUE(contains(error_of([&] { Hdf5File::open_to_write(dir / "a.h5"); }), "locked"));
  ::close(descriptor);
  hdf5_run([&] { EXPECT_TRUE(Hdf5File::open_unless_locked(dir / "a.h5").has_value()); });
}

// A full disk is an error of the write or of close(), and HDF5 survives it.
TEST(Hdf5, DiskFull) {
  const std::vector<double> values(10'000, 1.0);
  for (const bool large : {false, true}) {
    const Error error = error_of([&] {
      Hdf5File file = Hdf5File::create("/dev/full");
      Hdf5File::Layout layout;
      layout.chunk = {1000};
      file.create_dataset<double>("/small", {100}, layout);
      file.write<double>("/small", {0}, {100}, std::span(values).first(100));
      if (large) {
        file.write_all<double>("/large", {10'000}, values);
      }
      file.close();
    });
    EXPECT_EQ(error.code(), Exit::kIoError);
    EXPECT_TRUE(contains(error, "No space left on device")) << error.what();
  }
}

// A scale names the axis of another dataset.
TEST(Hdf5, Scales) {
  const TempDir dir;
  hdf5_run([&] {
    Hdf5File file = Hdf5File::create(dir / "a.h5");
    file.write_all<std::int64_t>("/step", {3}, std::vector<std::int64_t>{1, 2, 3});
    file.write_all<double>("/loss", {3}, std::vector<double>{3, 2, 1});
    file.make_scale("/step", "step");
    file.attach_scale("/loss", "/step", 0);
    EXPECT_EQ(file.string_attribute("/step", "CLASS"), "DIMENSION_SCALE");
    EXPECT_TRUE(file.has_attribute("/loss", "DIMENSION_LIST"));
    file.close();
  });
}

// A damaged header that claims a huge dataset is refused before memory is asked for.
TEST(Hdf5, AbsurdExtents) {
  const TempDir dir;
  hdf5_run([&] {
    Hdf5File file = Hdf5File::create(dir / "a.h5");
    Hdf5File::Layout layout;
    layout.chunk = {1000};
    layout.unlimited = true;
    file.create_dataset<double>("/x", {std::int64_t{1} << 50}, layout);
    file.close();
  });
  const Error error = error_of([&] { Hdf5File::open(dir / "a.h5").read_all<double>("/x"); });
  EXPECT_TRUE(contains(error, "more than a file of"));
}

// What the HDF5 thread throws reaches the caller, and its work runs in order.
TEST(Hdf5Thread, OrderAndErrors) {
  std::vector<int> order;
  std::vector<std::future<void>> done;
  done.reserve(20);
  for (int i = 0; i < 20; ++i) {
    done.push_back(hdf5_async([&order, i] { order.push_back(i); }));
  }
  for (auto& one : done) {
    one.get();
  }
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
  EXPECT_EQ(order.size(), 20U);
  EXPECT_FALSE(on_hdf5_thread());
  EXPECT_TRUE(hdf5_run([] { return on_hdf5_thread() && hdf5_run([] { return true; }); }));
  EXPECT_THROW(hdf5_run([] { throw Error(Exit::kBadData, "x"); }), Error);
}

}  // namespace
}  // namespace moesaic::files
