#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "hf/folder.h"
#include "support/temp_dir.h"

// The families' folders of tests/golden, and an own reader of their files.
namespace moesaic::hf {

namespace fs = std::filesystem;
using Extents = std::vector<std::int64_t>;
using moesaic::testing::TempDir;

inline const std::vector<std::string> kFolders{"mixtral",     "qwen2_moe",       "qwen3_moe",
                                               "olmoe",       "deepseek_v2",     "deepseek_v2_yarn",
                                               "deepseek_v3", "deepseek_v3_fp8", "gpt_oss"};

inline fs::path folder_of(const std::string& name) {
  return fs::path(MOESAIC_GOLDEN_DIR) / "families" / name;
}

inline std::vector<float> whole(HfFolder& folder, const std::string& name) {
  const Extents shape = folder.shape(name).value();
  std::vector<float> values(static_cast<std::size_t>(
      std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>())));
  folder.read(name, Extents(shape.size(), 0), shape, values);
  return values;
}

inline std::string message_of(const std::function<void()>& work, Exit code) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "nothing was thrown";
}

inline void expect_in(const std::string& message, const std::string& part) {
  EXPECT_NE(message.find(part), std::string::npos) << part << "\n" << message;
}

struct Array {
  Extents shape;
  std::string dtype;
  std::vector<float> values;
  float at(std::initializer_list<std::int64_t> index) const {
    std::int64_t place = 0;
    auto extent = shape.begin();
    for (const std::int64_t i : index) {
      place = place * *extent++ + i;
    }
    return values.at(static_cast<std::size_t>(place));
  }
};
using Arrays = std::map<std::string, Array>;

/// e4m3 by its definition: 4 bits of exponent with bias 7, 3 of mantissa.
inline float e4m3(unsigned char bits) {
  const int exponent = (bits >> 3U) & 15, mantissa = bits & 7;
  const float magnitude =
      exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                    : std::ldexp(1.0F + static_cast<float>(mantissa) / 8.0F, exponent - 7);
  return (bits & 128U) != 0 ? -magnitude : magnitude;
}

/// Reads safetensors files in a few lines, apart from the reader that is tested.
inline Arrays arrays_of(const fs::path& folder) {
  Arrays arrays;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".safetensors") {
      continue;
    }
    const std::string bytes = testing::read_file(entry.path());
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    const Json header = Json::parse(bytes.substr(8, length));
    for (const auto& [name, value] : header.items()) {
      if (name == "__metadata__") {
        continue;
      }
      Array array{value["shape"].get<Extents>(), value["dtype"].get<std::string>(), {}};
      const std::size_t begin = 8 + length + value["data_offsets"][0].get<std::size_t>();
      const std::size_t end = 8 + length + value["data_offsets"][1].get<std::size_t>();
      const std::size_t width = array.dtype == "F32" ? 4 : array.dtype == "BF16" ? 2 : 1;
      for (std::size_t at = begin; at < end; at += width) {
        float one = width == 1 ? e4m3(static_cast<unsigned char>(bytes[at])) : 0.0F;
        if (width > 1) {  // bf16 is the upper half of a float
          std::memcpy(reinterpret_cast<char*>(&one) + 4 - width, &bytes[at], width);
        }
        array.values.push_back(one);
      }
      arrays[name] = array;
    }
  }
  return arrays;
}

}  // namespace moesaic::hf
