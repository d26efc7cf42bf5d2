#include "data/corpus/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>

#include "base/io_error.h"
#include "base/json.h"
#include "base/text.h"
#include "data/corpus/shard.h"
#include "files/durable.h"
#include "files/format_version.h"
#include "files/lenient_json.h"

namespace moesaic::data {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTokenizer = "tokenizer.json";  // lies beside a manifest, and may be large

bool is_manifest(const std::string& text) {
  const Json content = Json::parse_or_null(text);
  return content.is_object() && content.value("schema", Json()) == kCorpusSchema;
}

ShardInfo shard_of(const Json& entry, const fs::path& folder) {
  ShardInfo shard;
  const std::string name = entry.at("file").get<std::string>();
  if (name.empty() || fs::path(name).is_absolute() || name.find("..") != std::string::npos) {
    throw Error(Exit::kBadData,
                fmt::format("a shard's file name must stay in the folder: '{}'", name));
  }
  shard.file = folder / name;
  shard.bytes = entry.at("bytes").get<std::int64_t>();
  shard.tokens = entry.at("tokens").get<std::int64_t>();
  shard.documents = entry.at("documents").get<std::int64_t>();
  shard.sha256 = entry.value("sha256", "");
  if (shard.bytes < 0 || shard.tokens < 0 || shard.documents < 0) {
    throw Error(Exit::kBadData, fmt::format("shard '{}' has a negative count", name));
  }
  return shard;
}

CorpusInfo info_of(const Json& content, const fs::path& file) {
  CorpusInfo info;
  info.manifest = file;
  info.name = content.at("name").get<std::string>();
  info.vocab_size = content.at("vocab_size").get<std::int64_t>();
  info.vocab_sha256 = content.at("vocab_sha256").get<std::string>();
  info.eos_id = content.value("eos_id", std::int64_t{-1});
  info.bos_id = content.value("bos_id", std::int64_t{-1});
  info.task_names = content.value("task_names", std::vector<std::string>{"none"});
  info.source_bytes = content.value("source_bytes", std::int64_t{0});
  info.fingerprint = content.value("fingerprint", "");
  info.version = content.value("version", std::int64_t{1});
  info.spans = content.value("spans", false);
  const std::string tokenizer = content.value("tokenizer", "byte");
  if (tokenizer != "byte") {
    info.tokenizer = file.parent_path() / fs::path(tokenizer).filename();
  }
  for (const Json& entry : content.at("shards")) {
    info.shards.push_back(shard_of(entry, file.parent_path()));
    info.tokens += info.shards.back().tokens;
    info.documents += info.shards.back().documents;
  }
  if (info.vocab_size < 1 || info.shards.empty()) {
    throw Error(Exit::kBadData, fmt::format("it says vocab_size = {} and {} shards",
                                            info.vocab_size, info.shards.size()));
  }
  return info;
}

CorpusInfo corpus_of(const std::string& text, const fs::path& file) {
  try {
    const Json content = Json::parse(text);
    files::check_format(file, content.value("schema", "none"),
                        content.value("version", std::int64_t{0}), kCorpusSchema, kCorpusVersion);
    return info_of(content, file);
  } catch (const files::NewerFormat&) {
    throw;
  } catch (const std::exception& error) {
    throw Error(Exit::kBadData,
                fmt::format("{} is not a sound corpus manifest: {}", fs::absolute(file).string(),
                            files::json_reason(error, text)));
  }
}

/// The manifests in a folder and their texts.
std::map<fs::path, std::string> texts_in(const fs::path& folder) {
  std::map<fs::path, std::string> found;
  if (!files::is_there(folder)) {
    return found;
  }
  for (const auto& entry : fs::directory_iterator(folder)) {
    const fs::path& file = entry.path();
    if (!entry.is_directory() && file.extension() == ".json" && file.filename() != kTokenizer) {
      std::string text = files::read_whole(file);
      if (is_manifest(text)) {
        found[file] = std::move(text);
      }
    }
  }
  return found;
}

}  // namespace

std::vector<fs::path> manifests_in(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& [file, text] : texts_in(folder)) {
    files.push_back(file);
  }
  return files;
}

CorpusInfo read_corpus_manifest(const fs::path& file) {
  return corpus_of(files::read_whole(file), file);
}

CorpusInfo read_corpus_in(const fs::path& folder) {
  const std::map<fs::path, std::string> found = texts_in(folder);
  std::vector<std::string> below;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_directory()) {
      below.push_back(entry.path().filename().string());
    }
  }
  std::sort(below.begin(), below.end());
  const std::string where = fs::absolute(folder).string();
  if (found.empty()) {
    throw Error(
        Exit::kNoInput,
        fmt::format("no corpus manifest (NAME.json) in {}{}: name the folder that "
                    "`moesaic tokenize` wrote, or the shard files themselves",
                    where, below.empty() ? "" : fmt::format(" (folders: {})", join(below, ", "))));
  }
  if (found.size() > 1) {
    throw Error(Exit::kBadData,
                fmt::format("two corpus manifests in {}: {} and {}; name one of the two files, or "
                            "move one corpus to a folder of its own",
                            where, found.begin()->first.filename().string(),
                            std::next(found.begin())->first.filename().string()));
  }
  return corpus_of(found.begin()->second, found.begin()->first);
}

namespace {

Json content_of(const CorpusInfo& info) {
  Json shards = Json::array();
  for (const ShardInfo& shard : info.shards) {
    shards.push_back({{"file", shard.file.filename().string()},
                      {"bytes", shard.bytes},
                      {"tokens", shard.tokens},
                      {"documents", shard.documents},
                      {"sha256", shard.sha256}});
  }
  Json content = {
      {"schema", kCorpusSchema},
      {"version", info.version},
      {"name", info.name},
      {"vocab_size", info.vocab_size},
      {"vocab_sha256", info.vocab_sha256},
      {"tokenizer", info.tokenizer.empty() ? "byte" : info.tokenizer.filename().string()},
      {"eos_id", info.eos_id},
      {"bos_id", info.bos_id},
      {"task_names", info.task_names},
      {"tokens", info.tokens},
      {"documents", info.documents},
      {"source_bytes", info.source_bytes},
      {"fingerprint", info.fingerprint},
      {"shards", shards}};
  if (info.spans) {
    content["spans"] = true;
  }
  return content;
}

}  // namespace

void write_corpus_manifest(const CorpusInfo& info) {
  files::write_whole(info.manifest, content_of(info).dump(1) + "\n");
}

std::string to_text(const CorpusInfo& info) {
  Json files = Json::array();
  for (const ShardInfo& shard : info.shards) {
    files.push_back(shard.file.string());
  }
  const Json all = {{"content", content_of(info)},
                    {"manifest", info.manifest.string()},
                    {"tokenizer", info.tokenizer.string()},
                    {"files", files}};
  return all.to_cbor();  // names need not be UTF-8
}

CorpusInfo corpus_of_text(const std::string& text) {
  const Json all = Json::from_cbor(text);
  CorpusInfo info = info_of(all.at("content"), all.at("manifest").get<std::string>());
  info.tokenizer = all.at("tokenizer").get<std::string>();
  for (std::size_t i = 0; i < info.shards.size(); ++i) {
    info.shards[i].file = all.at("files").at(i).get<std::string>();
  }
  return info;
}

void check_shard_file(const CorpusInfo& info, const ShardInfo& shard) {
  std::error_code error;
  const auto bytes = fs::file_size(shard.file, error);
  const std::string path = fs::absolute(shard.file).string();
  const std::string manifest = fs::absolute(info.manifest).string();
  if (error && storage_failed(error.value())) {
    files::fail_read(shard.file, error.value());
  }
  if (error) {
    throw Error(Exit::kNoInput,
                fmt::format("shard {} is missing or unreadable ({}), but {} lists it: copy it "
                            "again, or run `moesaic tokenize` again",
                            path, error.message(), manifest));
  }
  if (static_cast<std::int64_t>(bytes) != shard.bytes) {
    throw Error(Exit::kBadData,
                fmt::format("shard {} has {} bytes, but {} says {}{}: copy it again, or run "
                            "`moesaic tokenize` again",
                            path, bytes, manifest, shard.bytes,
                            static_cast<std::int64_t>(bytes) < shard.bytes ? " (truncated)" : ""));
  }
}

void check_shard_files(const CorpusInfo& info) {
  for (const ShardInfo& shard : info.shards) {
    check_shard_file(info, shard);
  }
}

}  // namespace moesaic::data
