#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

// What a start reads of a Hugging Face folder, apart from its weights.
namespace moesaic::hf {

/// The contents of its small files, as one rank reads them and hands them to the others. An empty
/// text: there is no such file.
struct HfTexts {
  std::string config;      // config.json
  std::string generation;  // generation_config.json
  std::string index;       // model.safetensors.index.json; empty where one file holds all weights
  std::string weights;     // of each weights file a line: modification time, weights_mark, name
};

/// The largest config that is read, in bytes.
inline constexpr std::uintmax_t kMostConfigBytes = 16'000'000;
/// Reads a small file whole. Throws what fail_read does; kBadData if it has more bytes.
std::string read_bounded(const std::filesystem::path& file, std::uintmax_t most);
/// The line of HfTexts::weights for a file.
std::string weights_line(const std::filesystem::path& file);

/// Reads them, and what weights_mark does. kNoInput if there are no weights, and what fail_read
/// throws; kBadData if one is too large.
HfTexts read_hf_texts(const std::filesystem::path& folder);

/// The marks of HfTexts::weights by file names.
std::map<std::string, std::string> weights_marks(const std::string& weights);

/// A hash of config and weights; without times it is the same for copies on other hosts.
std::string fingerprint(const HfTexts& texts, bool with_times);

}  // namespace moesaic::hf
