// The safetensors format: what is read and written bit by bit, and that no damaged file does harm.
#include "hf/safetensors/safetensors.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <random>

#include "base/error.h"
#include "support/temp_dir.h"

namespace moesaic::hf {
namespace {

namespace fs = std::filesystem;
using Extents = std::vector<std::int64_t>;
using moesaic::testing::TempDir;

std::string bytes_of_file(const std::string& header, const std::string& data) {
  std::string text(8, '\0');
  const std::uint64_t length = header.size();
  std::memcpy(text.data(), &length, sizeof(length));
  return text + header + data;
}

template <class T>
std::string bytes_of_values(const std::vector<T>& values) {
  std::string text(values.size() * sizeof(T), '\0');
  std::memcpy(text.data(), values.data(), text.size());
  return text;
}

std::vector<float> counted(std::size_t count) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), 0.0F);
  return values;
}

/// A file with one tensor "x" of this type.
SafetensorsFile one_tensor(const fs::path& file, const std::string& dtype, const std::string& shape,
                           const std::string& data) {
  testing::write_file(
      file, bytes_of_file(R"({"x":{"dtype":")" + dtype + R"(","shape":[)" + shape +
                              R"(],"data_offsets":[0,)" + std::to_string(data.size()) + "]}}",
                          data));
  return SafetensorsFile::open(file);
}

std::string message_of(const std::function<void()>& work, Exit code) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Every format's bit patterns mean what its definition says.
TEST(Safetensors, Formats) {
  const TempDir dir;
  const auto values_of = [&](const std::string& dtype, const std::string& data, std::size_t n) {
    std::vector<float> values(n);
    one_tensor(dir / "x", dtype, std::to_string(n), data)
        .read("x", {0}, {static_cast<std::int64_t>(n)}, values);
    return values;
  };
  EXPECT_EQ(values_of("F64", bytes_of_values<double>({0.1, -3.0}), 2),
            (std::vector<float>{0.1F, -3.0F}));
  EXPECT_EQ(values_of("F32", bytes_of_values<float>({0.1F, 1e-42F}), 2),
            (std::vector<float>{0.1F, 1e-42F}));
  EXPECT_EQ(values_of("BF16", bytes_of_values<std::uint16_t>({0x3f80, 0xc049}), 2),
            (std::vector<float>{1.0F, -3.140625F}));
  // 1, -2, the largest, the smallest normal, the largest and the smallest subnormal, -0
  EXPECT_EQ(values_of("F16",
                      bytes_of_values<std::uint16_t>(
                          {0x3c00, 0xc000, 0x7bff, 0x0400, 0x03ff, 0x0001, 0x8000}),
                      7),
            (std::vector<float>{1.0F, -2.0F, 65504.0F, 6.103515625e-05F, 6.097555160522461e-05F,
                                5.960464477539063e-08F, -0.0F}));
  // 1, -1.125, the largest, the smallest normal, the largest and the smallest subnormal, 320
  EXPECT_EQ(
      values_of("F8_E4M3",
                bytes_of_values<std::uint8_t>({0x38, 0xb9, 0x7e, 0x08, 0x07, 0x01, 0x7a}), 7),
      (std::vector<float>{1.0F, -1.125F, 448.0F, 0.015625F, 0.013671875F, 0.001953125F, 320.0F}));
}

// A value that is not a number is named with its place, in each format; others' places do not
// matter.
TEST(Safetensors, NotFinite) {
  const TempDir dir;
  const std::vector<std::pair<std::string, std::string>> cases{
      {"F64", bytes_of_values<double>({1, 1, 1, 1, 1e39, 1})},
      {"F32", bytes_of_values<float>({1, 1, 1, 1, std::nanf(""), 1})},
      {"F16", bytes_of_values<std::uint16_t>({0, 0, 0, 0, 0x7c00, 0})},
      {"BF16", bytes_of_values<std::uint16_t>({0, 0, 0, 0, 0xff80, 0})},
      {"F8_E4M3", bytes_of_values<std::uint8_t>({0, 0, 0, 0, 0xff, 0})}};
  for (const auto& [dtype, data] : cases) {
    const SafetensorsFile file = one_tensor(dir / "x", dtype, "2,3", data);
    std::vector<float> all(6), some(3);
    const std::string message = message_of(
        [&] {
          file.read("x", {0, 0}, {2, 3}, all);
        },
        Exit::kBadData);
    EXPECT_TRUE(contains(message, "tensor x holds ") && contains(message, "at [1, 1]")) << message;
    EXPECT_NO_THROW(file.read("x", {0, 0}, {1, 3}, some));
  }
}

// Formats that cannot be read are listed, and refused when a tensor of them is read.
TEST(Safetensors, OtherFormats) {
  const TempDir dir;
  std::vector<float> values(2);
  for (const char* dtype : {"I64", "F8_E5M2", "F4"}) {
    const SafetensorsFile file =
        one_tensor(dir / "x", dtype, "2", std::string(dtype[0] == 'I' ? 16 : 2, '\0'));
    EXPECT_EQ(file.tensors().at("x").dtype, dtype);
    EXPECT_TRUE(contains(message_of([&] { file.read("x", {0}, {2}, values); }, Exit::kBadData),
                         std::string("tensor x holds ") + dtype));
  }
}

// Any part equals that part of the whole, also of tensors larger than a block that is read at once.
TEST(Safetensors, Parts) {
  const TempDir dir;
  const std::int64_t rows = 700, columns = 451;
  const auto whole = counted(static_cast<std::size_t>(rows * columns));
  const SafetensorsFile file =
      one_tensor(dir / "x", "F32", "700,451", bytes_of_values<float>(whole));
  const std::vector<std::pair<Extents, Extents>> parts{
      {{0, 0}, {rows, columns}}, {{0, 0}, {rows, 1}},   {{3, 7}, {651, 444}}, {{699, 450}, {1, 1}},
      {{5, 450}, {600, 1}},      {{11, 0}, {600, 451}}, {{0, 0}, {0, 451}}};
  for (const auto& [offset, extent] : parts) {
    std::vector<float> values(static_cast<std::size_t>(extent[0] * extent[1]), -1.0F);
    file.read("x", offset, extent, values);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto at = static_cast<std::int64_t>(i);
      const std::int64_t row = offset[0] + at / extent[1], column = offset[1] + at % extent[1];
      ASSERT_EQ(values[i], static_cast<float>(row * columns + column));
    }
  }
  std::vector<float> values(1);
  message_of([&] { file.read("x", {700, 0}, {1, 1}, values); }, Exit::kInternal);
  message_of([&] { file.read("x", {0, 0}, {1, 2}, values); }, Exit::kInternal);
}

// Elements that lie apart and across: a transposed part of every second column.
TEST(Safetensors, Strided) {
  const TempDir dir;
  const SafetensorsFile file =
      one_tensor(dir / "x", "F32", "900,800", bytes_of_values<float>(counted(720000)));
  const std::vector<Strided> cases{{1, {2, 800}, {400, 900}},  // all odd columns, as rows
                                   {805, {2, 800}, {3, 899}},  // some
                                   {0, {500000, 3}, {2, 7}},   // far apart
                                   {17, {}, {}}};              // one
  for (const Strided& elements : cases) {
    std::int64_t size = 1;
    for (const std::int64_t extent : elements.extent) {
      size *= extent;
    }
    std::vector<float> values(static_cast<std::size_t>(size));
    file.read("x", elements, values);
    for (std::int64_t i = 0; i < size; ++i) {
      const std::int64_t place =
          elements.extent.empty() ? elements.first
                                  : elements.first + i / elements.extent[1] * elements.strides[0] +
                                        i % elements.extent[1] * elements.strides[1];
      ASSERT_EQ(values[static_cast<std::size_t>(i)], static_cast<float>(place));
    }
  }
  std::vector<float> two(2);
  message_of([&] { file.read("x", Strided{719999, {1}, {2}}, two); }, Exit::kInternal);
}

// Each way in which a header can be wrong is told with the file and the numbers.
TEST(Safetensors, BadHeaders) {
  const TempDir dir;
  const std::string good = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";
  const std::string other = R"("dtype":"F32","shape":[1],"data_offsets":)";
  const std::vector<std::pair<std::string, std::string>> cases{
      {"[]", "not a JSON object"},
      {"{\"a\":", "not JSON"},
      {"{\"\xff\":{" + good + "}}", "not JSON"},
      {"{\"a\":{" + good + "},\"a\":{" + good + "}}", "'a' twice"},
      {R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "'dtype' twice"},
      {R"({"a":3})", "not described by an object"},
      {"{\"a\":{" + good + ",\"more\":1}}", "'more' that is not known"},
      {R"({"a":{"shape":[2],"data_offsets":[0,8]}})", "no 'dtype'"},
      {R"({"a":{"dtype":4,"shape":[2],"data_offsets":[0,8]}})", "no 'dtype'"},
      {R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", "no list 'shape'"},
      {R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", "holds -2, not a size"},
      {R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", "holds 2.0, not a size"},
      {R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})",
       "not a size"},
      {R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,8]}})",
       "is too large"},
      {R"({"a":{"dtype":"F32","shape":[[[[[]]]]],"data_offsets":[0,8]}})", "nested too deeply"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", "takes 12 bytes, but has 8"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})", "lies at [0, 8, 8]"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", "lies at [8, 0]"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})", "has 8 bytes of data"},
      {"{\"a\":{" + other + "[0,4]}}", "end at byte 4 of the data, which has 8"},
      {"{\"a\":{" + other + "[4,8]}}", "leave a hole"},
      {"{\"a\":{" + good + "},\"b\":{" + other + "[4,8]}}", "overlap"},
      {"{\"a\":{" + good + "},\"__metadata__\":3}", "'__metadata__'"},
      {"{\"a\":{" + good + "},\"__metadata__\":{\"format\":3}}", "'__metadata__'"},
      {std::string(100000, '['), "nested too deeply"}};
  for (const auto& [header, problem] : cases) {
    testing::write_file(dir / "bad.safetensors", bytes_of_file(header, std::string(8, '\0')));
    const std::string message =
        message_of([&] { SafetensorsFile::open(dir / "bad.safetensors"); }, Exit::kBadData);
    EXPECT_TRUE(contains(message, "bad.safetensors: ") && contains(message, problem))
        << header.substr(0, 200) << "\n"
        << message;
  }
  testing::write_file(dir / "short", "1234567");
  EXPECT_TRUE(contains(message_of([&] { SafetensorsFile::open(dir / "short"); }, Exit::kBadData),
                       "has 7 bytes"));
  testing::write_file(dir / "long", std::string(8, '\x7f') + "{}");
  EXPECT_TRUE(contains(message_of([&] { SafetensorsFile::open(dir / "long"); }, Exit::kBadData),
                       "it can have 2 at most"));
  message_of([&] { SafetensorsFile::open(dir / "none"); }, Exit::kNoInput);
  message_of([&] { SafetensorsFile::open(dir.path()); }, Exit::kNoInput);
}

/// Tensors of the three formats that are written, a scalar and an empty one among them.
const std::vector<TensorToStore> kTensors{{"wide", DType::kF32, {3, 5}},
                                          {"empty", DType::kBf16, {0, 4}},
                                          {"brain", DType::kBf16, {7}},
                                          {"scalar", DType::kF32, {}},
                                          {"half", DType::kF16, {2, 2, 2}}};

void write_tensors(const fs::path& file) {
  SafetensorsWriter writer(file, kTensors);
  writer.write(std::span<const float>(counted(15)).first(4));
  writer.write(std::span<const float>(counted(15)).subspan(4));
  writer.write(counted(7));
  writer.write(std::vector<float>{0.1F});
  writer.write(counted(8));
  writer.close();
}

// What is written is read back; the header is aligned, and no temporary file stays.
TEST(Safetensors, RoundTrip) {
  const TempDir dir;
  write_tensors(dir / "a.safetensors");
  const SafetensorsFile file = SafetensorsFile::open(dir / "a.safetensors");
  EXPECT_EQ(file.tensors().size(), kTensors.size());
  for (const TensorToStore& tensor : kTensors) {
    std::vector<float> values(static_cast<std::size_t>(
        bytes_of(tensor) / static_cast<std::int64_t>(size_of(tensor.type))));
    file.read(tensor.name, Extents(tensor.shape.size(), 0), tensor.shape, values);
    EXPECT_EQ(values, tensor.name == "scalar" ? std::vector<float>{0.1F} : counted(values.size()));
    EXPECT_EQ(file.tensors().at(tensor.name).shape, tensor.shape);
  }
  std::uint64_t length = 0;
  std::memcpy(&length, testing::read_file(dir / "a.safetensors").data(), sizeof(length));
  EXPECT_EQ(length % 8, 0U);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1);
}

// Rounding is to nearest, ties to even; what a format cannot hold is an error, and leaves no file.
TEST(Safetensors, Narrowing) {
  const TempDir dir;
  const auto narrowed = [&](DType type, const std::vector<float>& values) {
    const Extents shape{static_cast<std::int64_t>(values.size())};
    SafetensorsWriter writer(dir / "n", {{"x", type, shape}});
    writer.write(values);
    writer.close();
    std::vector<float> read(values.size());
    SafetensorsFile::open(dir / "n").read("x", {0}, shape, read);
    return read;
  };
  const float bf = 1.0F / 128, half = 1.0F / 1024;
  EXPECT_EQ(narrowed(DType::kBf16, {1 + bf / 2, 1 + 3 * bf / 2, 1 + 0.51F * bf, -0.0F}),
            (std::vector<float>{1, 1 + 2 * bf, 1 + bf, -0.0F}));
  EXPECT_EQ(narrowed(DType::kF16, {1 + half / 2, 1 + 3 * half / 2, 65519, 3.0e-8F, 2.9e-8F,
                                   6.1e-05F, 6.103515e-05F, -1.5e-7F}),
            (std::vector<float>{1, 1 + 2 * half, 65504, 5.9604645e-08F, 0, 6.0975552e-05F,
                                6.1035156e-05F, -1.7881393e-07F}));
  for (const auto& [type, value] : std::vector<std::pair<DType, float>>{
           {DType::kF16, 65520.0F}, {DType::kBf16, 3.4e38F}, {DType::kF32, std::nanf("")}}) {
    const TempDir empty;
    const std::string message = message_of(
        [&, type = type, value = value] {
          SafetensorsWriter writer(empty / "n", {{"x", type, {2, 2}}});
          writer.write(std::vector<float>{1, 2, value, 3});
        },
        Exit::kBadNumbers);
    EXPECT_TRUE(contains(message, "tensor x has ") && contains(message, "at [1, 0]")) << message;
    EXPECT_TRUE(fs::is_empty(empty.path()));
  }
}

// A writer that is not closed, or is given too little or too much, leaves the older file alone.
TEST(Safetensors, Unfinished) {
  const TempDir dir;
  testing::write_file(dir / "x", "older");
  const std::vector<TensorToStore> one{{"x", DType::kF32, {3}}};
  {
    SafetensorsWriter writer(dir / "x", one);
    writer.write(counted(2));
    message_of([&] { writer.close(); }, Exit::kInternal);
    message_of([&] { writer.write(counted(2)); }, Exit::kInternal);
  }
  EXPECT_EQ(testing::read_file(dir / "x"), "older");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1);
  message_of([&] { const SafetensorsWriter writer(dir / "none" / "x", one); }, Exit::kIoError);
}

// Random changes of a file end in the right data or an error of input, never in a crash.
TEST(Safetensors, RandomDamage) {
  const TempDir dir;
  const fs::path file = dir / "a.safetensors";
  write_tensors(file);
  const std::string good = testing::read_file(file);
  std::mt19937 random(1);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  int opened = 0;
  for (int version = 0; version < 4000; ++version) {
    std::string bad = good;
    const std::size_t changes = 1 + below(3);
    for (std::size_t i = 0; i < changes; ++i) {
      const std::size_t at = below(bad.size());
      if (below(4) == 0) {
        bad.resize(at + 1);
      } else if (below(3) == 0) {
        bad.insert(at, 1, static_cast<char>('0' + below(10)));
      } else {
        bad[at] = below(2) == 0 ? static_cast<char>(random()) : "0123456789[]{},:\""[below(17)];
      }
    }
    testing::write_file(file, bad);
    try {
      const SafetensorsFile read = SafetensorsFile::open(file);
      ++opened;
      for (const auto& [name, tensor] : read.tensors()) {
        std::vector<float> values(1);
        for (const std::int64_t extent : tensor.shape) {
          values.resize(values.size() * static_cast<std::size_t>(extent));
        }
        read.read(name, Extents(tensor.shape.size(), 0), tensor.shape, values);
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::kBadData) << error.what();
      EXPECT_TRUE(contains(error.what(), "a.safetensors")) << error.what();
    }
  }
  EXPECT_GT(opened, 100);  // changes of values alone
}

}  // namespace
}  // namespace moesaic::hf
