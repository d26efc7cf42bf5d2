// Where a tokenizer lies, and what its document marks are.
#include <fmt/format.h>

#include <filesystem>

#include "base/error.h"
#include "base/json.h"
#include "files/durable.h"
#include "text/huggingface/fields.h"
#include "text/huggingface/tokenizer_json.h"
#include "text/tokenizer.h"

namespace moesaic::text {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kMostBytes = std::uintmax_t{1} << 30U;  // the largest in use: 35 MB

fs::path file_of(const fs::path& path) {
  if (!files::is_folder(path)) {
    return path;
  }
  for (const char* const name : {"tokenizer.json", "tokenizer.model"}) {
    if (files::is_there(path / name)) {
      return path / name;
    }
  }
  throw Error(Exit::kNoInput, fmt::format("{} has neither a tokenizer.json nor a tokenizer.model",
                                          fs::absolute(path).string()));
}

std::string content_of(const fs::path& file) {
  std::error_code unreadable;
  const std::uintmax_t size = fs::file_size(file, unreadable);
  if (!unreadable && size > kMostBytes) {
    throw Error(Exit::kBadData, fmt::format("{} has {} bytes: no tokenizer is larger than {}",
                                            fs::absolute(file).string(), size, kMostBytes));
  }
  return files::read_whole(file);
}

/// Finds ids of marks in the files beside a tokenizer.json.
class Marks {
 public:
  Marks(const fs::path& folder, const Vocabulary& vocabulary) : vocabulary_(vocabulary) {
    load(folder / "tokenizer_config.json", tokens_);
    load(folder / "config.json", model_);
  }

  /// kind: "eos" or "bos". A tokenizer_config.json that names the mark, be it null, is right.
  std::int64_t id(const std::string& kind) const {
    const std::string token_key = kind + "_token";
    const std::string id_key = token_key + "_id";
    if (tokens_.content.is_object() && tokens_.content.contains(token_key)) {
      return id_of_token(tokens_, token_key);
    }
    if (!model_.content.is_object() || !model_.content.contains(id_key)) {
      return -1;
    }
    const Json& stored = model_.content[id_key];
    if (stored.is_null() || (stored.is_array() && stored.empty())) {
      return -1;
    }
    const Json& value = stored.is_array() ? stored[0] : stored;  // all end a chat, the first a text
    return JsonPart{Json{{id_key, value}}, model_.file, "config"}.number(id_key.c_str(), 0,
                                                                         kMostId);
  }

 private:
  static constexpr std::int64_t kMostId = (std::int64_t{1} << 31U) - 1;
  struct Beside {
    std::string file;
    Json content;
  };
  static void load(const fs::path& file, Beside& beside) {
    beside.file = fs::absolute(file).string();
    if (files::is_there(file)) {
      beside.content = parse_tokenizer_json(content_of(file), beside.file);
    }
  }
  std::int64_t id_of_token(const Beside& from, const std::string& key) const {
    const Json& value = from.content[key];
    if (value.is_null()) {
      return -1;
    }
    const Json text = value.is_object() && value.contains("content") ? value["content"] : value;
    if (text.is_string()) {
      for (const AddedToken& added : vocabulary_.added) {
        if (added.content == text) {
          return added.id;
        }
      }
      for (std::size_t i = 0; i < vocabulary_.tokens.size(); ++i) {
        if (vocabulary_.tokens[i] == text) {
          return static_cast<std::int64_t>(i);
        }
      }
    }
    throw Error(Exit::kBadData, fmt::format("{}: {} = {} is no token of the tokenizer.json beside "
                                            "it",
                                            from.file, key, value.dump()));
  }

  const Vocabulary& vocabulary_;
  Beside tokens_, model_;
};

}  // namespace

std::string read_tokenizer(const fs::path& path) {
  const fs::path file = file_of(path);
  std::string content = content_of(file);
  if (!content.starts_with('{')) {
    return content;
  }
  const std::string name = fs::absolute(file).string();
  Json whole = parse_tokenizer_json(content, name);
  const Vocabulary vocabulary = read_vocabulary(whole, name);
  if (!whole["model"].contains(kMarksKey)) {
    const Marks marks(fs::absolute(file).parent_path(), vocabulary);
    whole["model"][kMarksKey] = {{"eos_id", marks.id("eos")}, {"bos_id", marks.id("bos")}};
  }
  return whole.dump();
}

}  // namespace moesaic::text
