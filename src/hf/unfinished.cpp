#include "hf/unfinished.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "base/error.h"
#include "files/durable.h"
#include "hf/folder.h"
#include "hf/peft.h"
#include "hf/peft_config.h"
#include "hf/tensor_names.h"

namespace moesaic::hf {
namespace {

namespace fs = std::filesystem;

constexpr const char* kUnfinishedName = ".unfinished";  // there while the folder is written

constexpr std::array kSidecarFiles{
    "tokenizer.json",  "tokenizer_config.json", "special_tokens_map.json",
    "tokenizer.model", "added_tokens.json",     "vocab.json",
    "merges.txt",      "chat_template.jinja",   "generation_config.json"};

/// Whether a file has a name that write_hf_folder or write_peft_folder gives.
bool is_written(const fs::path& file) {
  fs::path name = file.filename();
  if (name.extension() == ".tmp") {
    name.replace_extension();
  }
  const std::string text = name.string();
  return text == kUnfinishedName || text == kConfigName || text == kPeftConfigName ||
         text == kPeftWeightsName ||
         (text.starts_with("model") && text.find(".safetensors") != std::string::npos) ||
         std::find(kSidecarFiles.begin(), kSidecarFiles.end(), text) != kSidecarFiles.end();
}

}  // namespace

std::vector<fs::path> sidecar_files(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const char* name : kSidecarFiles) {
    if (files::is_there(folder / name) && !files::is_folder(folder / name)) {
      files.push_back(folder / name);
    }
  }
  return files;
}

bool is_free(const fs::path& folder) {
  if (!fs::exists(folder) || fs::is_empty(folder)) {
    return true;
  }
  const auto entries = fs::directory_iterator(folder);
  return fs::exists(folder / kUnfinishedName) && !HfFolder::is_one(folder) &&
         !PeftFolder::is_one(folder) &&
         std::all_of(begin(entries), end(entries),
                     [](const auto& entry) { return is_written(entry.path()); });
}

void clear_written(const fs::path& folder) {
  std::vector<fs::path> written;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (is_written(entry->path()) && entry->path().filename() != kUnfinishedName) {
      written.push_back(entry->path());
    }
  }
  written.push_back(folder / kUnfinishedName);  // last, as the rest is known by it
  for (std::size_t i = 0; !error && i < written.size(); ++i) {
    fs::remove(written[i], error);
  }
  if (error) {
    throw Error(Exit::kCannotCreate, fmt::format("{}: cannot be cleared of an unfinished model: {}",
                                                 fs::absolute(folder).string(), error.message()));
  }
}

void begin_writing(const fs::path& folder) {
  files::make_folder(folder);
  if (!is_free(folder)) {
    throw Error(Exit::kCannotCreate,
                fmt::format("{}: is not empty; name another folder, or remove it",
                            fs::absolute(folder).string()));
  }
  clear_written(folder);
  files::write_whole(folder / kUnfinishedName, "");
}

void end_writing(const fs::path& folder) { fs::remove(folder / kUnfinishedName); }

}  // namespace moesaic::hf
