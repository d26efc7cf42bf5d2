#include "hf/texts.h"

#include <fmt/format.h>

#include <span>
#include <sstream>

#include "base/error.h"
#include "base/sha256.h"
#include "files/durable.h"
#include "hf/safetensors/safetensors.h"
#include "hf/tensor_names.h"

namespace moesaic::hf {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kMostIndexBytes = 500'000'000;

std::string sha256_of(std::string_view text) { return Sha256::of(std::as_bytes(std::span(text))); }

std::string read_weights(const fs::path& folder) {
  std::map<std::string, std::string> lines;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") {
      lines[entry.path().filename().string()] = weights_line(entry.path());
    }
  }
  std::string text;
  for (const auto& [name, line] : lines) {
    text += line;
  }
  return text;
}

}  // namespace

std::string read_bounded(const fs::path& file, std::uintmax_t most) {
  std::error_code unknown;
  if (fs::file_size(file, unknown) > most && !unknown) {
    throw Error(Exit::kBadData, fmt::format("{}: has more than {} bytes, too many for such a file",
                                            file.string(), most));
  }
  return files::read_whole(file);
}

std::string weights_line(const fs::path& file) {
  return fmt::format("{} {} {}\n", fs::last_write_time(file).time_since_epoch().count(),
                     weights_mark(file), file.filename().string());
}

HfTexts read_hf_texts(const fs::path& folder) {
  HfTexts texts;
  texts.config = read_bounded(folder / kConfigName, kMostConfigBytes);
  if (files::is_there(folder / kGenerationName)) {
    texts.generation = read_bounded(folder / kGenerationName, kMostConfigBytes);
  }
  if (!files::is_there(folder / kOneFile)) {
    if (!files::is_there(folder / kIndexName)) {
      throw Error(Exit::kNoInput,
                  fmt::format("{}: has neither {} nor {}; other formats can be converted with "
                              "transformers' save_pretrained",
                              fs::absolute(folder).string(), kOneFile, kIndexName));
    }
    texts.index = read_bounded(folder / kIndexName, kMostIndexBytes);
  }
  texts.weights = read_weights(folder);
  return texts;
}

std::map<std::string, std::string> weights_marks(const std::string& weights) {
  std::map<std::string, std::string> marks;
  std::istringstream lines(weights);
  std::string time, bytes, sum, name;
  while (lines >> time >> bytes >> sum && lines.get() && std::getline(lines, name)) {
    marks[name] = fmt::format("{} {}", bytes, sum);
  }
  return marks;
}

std::string fingerprint(const HfTexts& texts, bool with_times) {
  std::string text = sha256_of(texts.config) + "\n";
  if (with_times) {
    text += texts.weights;
  } else {
    for (const auto& [name, mark] : weights_marks(texts.weights)) {
      text += fmt::format("{} {}\n", mark, name);
    }
  }
  return sha256_of(text);
}

}  // namespace moesaic::hf
