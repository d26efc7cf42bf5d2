#include "io/corpus_shard.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "io/format_version.h"

namespace moesaic::io {
namespace {

[[noreturn]] void refuse(const std::filesystem::path& file, const std::string& what) {
  throw Error(Exit::kBadData, fmt::format("{}: {}; copy it again, or run `moesaic tokenize` again",
                                          std::filesystem::absolute(file).string(), what));
}

std::int64_t int_or(const Hdf5File& file, const std::string& name, std::int64_t otherwise) {
  return file.has_attribute("/", name) ? file.int_attribute("/", name) : otherwise;
}

std::string string_or(const Hdf5File& file, const std::string& name, const char* otherwise) {
  return file.has_attribute("/", name) ? file.string_attribute("/", name) : otherwise;
}

ShardHeader header_of(const Hdf5File& file) {
  check_format(file, kCorpusSchema, kCorpusVersion);
  ShardHeader header;
  header.vocab_size = file.int_attribute("/", "vocab_size");
  if (header.vocab_size < 1) {
    refuse(file.path(), fmt::format("its vocab_size is {}", header.vocab_size));
  }
  header.vocab_sha256 = string_or(file, "vocab_sha256", "");
  header.tokenizer = string_or(file, "tokenizer", "");
  header.eos_id = int_or(file, "eos_id", -1);
  header.bos_id = int_or(file, "bos_id", -1);
  header.shard_index = int_or(file, "shard_index", 0);
  header.shard_count = int_or(file, "shard_count", 1);
  if (file.has_attribute("/", "task_names")) {
    header.task_names = file.strings_attribute("/", "task_names");
  }
  return header;
}

/// The length of a dataset that must have one dim.
std::int64_t length_of(const Hdf5File& file, const std::string& name) {
  const Extents extents = file.extents(name);
  if (extents.size() != 1) {
    refuse(file.path(), fmt::format("{} has {} dims, not 1", name, extents.size()));
  }
  return extents[0];
}

/// An optional column of [documents] values; zeros if absent.
template <class T>
std::vector<T> column(const Hdf5File& file, const std::string& name, std::int64_t documents) {
  if (!file.has(name)) {
    return std::vector<T>(static_cast<std::size_t>(documents));
  }
  if (const std::int64_t length = length_of(file, name); length != documents) {
    refuse(file.path(), fmt::format("{} has {} entries for {} documents", name, length, documents));
  }
  return file.read_all<T>(name);
}

}  // namespace

void hash_tokens(Sha256& hash, std::span<const std::int32_t> tokens) {
  hash.update(std::as_bytes(tokens));
}

void hash_offsets(Sha256& hash, std::span<const std::int64_t> offsets) {
  hash.update(std::as_bytes(offsets));
}

ShardReader::ShardReader(const std::filesystem::path& file) : file_(Hdf5File::open(file)) {
  header_ = header_of(file_);
  const std::string type = file_.type_of("/tokens");
  if (type != "u2" && type != "u4") {
    refuse(file, fmt::format("/tokens is {}, not u2 or u4", type));
  }
  tokens_ = length_of(file_, "/tokens");
  documents_ = length_of(file_, "/documents/offsets") - 1;
  if (documents_ < 0) {
    refuse(file, "/documents/offsets is empty; it needs the number of documents + 1 entries");
  }
  const std::int64_t said_tokens = int_or(file_, "num_tokens", tokens_);
  const std::int64_t said_documents = int_or(file_, "num_documents", documents_);
  if (said_tokens != tokens_ || said_documents != documents_) {
    refuse(file, fmt::format("it says {} tokens in {} documents, but holds {} in {}", said_tokens,
                             said_documents, tokens_, documents_));
  }
}

std::int64_t ShardReader::source_bytes() const {
  const auto bytes = column<std::int64_t>(file_, "/documents/bytes", documents_);
  return std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
}

bool ShardReader::has_content_sha256() const { return file_.has_attribute("/", "content_sha256"); }

std::string ShardReader::content_sha256() const {
  return file_.string_attribute("/", "content_sha256");
}

const ShardDocuments& ShardReader::table() {
  if (!table_) {
    table_ = std::make_unique<ShardDocuments>();
    table_->offsets = file_.read_all<std::int64_t>("/documents/offsets");
    table_->context = column<std::int64_t>(file_, "/documents/context", documents_);
    table_->bytes = column<std::int64_t>(file_, "/documents/bytes", documents_);
    table_->task = column<std::uint8_t>(file_, "/documents/task", documents_);
    check_offsets();
    check_documents();
  }
  return *table_;
}

std::vector<std::string> ShardReader::ids() const {
  if (!file_.has("/documents/id")) {
    std::vector<std::string> numbered;
    for (std::int64_t d = 0; d < documents_; ++d) {
      numbered.push_back(fmt::format("{}:{}", path().filename().string(), d));
    }
    return numbered;
  }
  if (const std::int64_t length = length_of(file_, "/documents/id"); length != documents_) {
    refuse(path(),
           fmt::format("/documents/id has {} entries for {} documents", length, documents_));
  }
  return file_.read_strings("/documents/id");
}

void ShardReader::check_offsets() const {
  const auto& offsets = table_->offsets;
  if (offsets.front() != 0) {
    refuse(path(), fmt::format("/documents/offsets begins with {}, not 0", offsets.front()));
  }
  const auto descent = std::is_sorted_until(offsets.begin(), offsets.end());
  if (descent != offsets.end()) {
    const auto at = descent - offsets.begin();
    refuse(path(), fmt::format("/documents/offsets is not sorted: entry {} is {}, after {}", at,
                               *descent, *(descent - 1)));
  }
  if (offsets.back() != tokens_) {
    refuse(path(), fmt::format("/documents/offsets ends with {}, but there are {} tokens",
                               offsets.back(), tokens_));
  }
}

void ShardReader::check_documents() const {
  for (std::size_t d = 0; d < table_->task.size(); ++d) {
    const std::int64_t length = table_->offsets[d + 1] - table_->offsets[d];
    if (table_->context[d] < 0 || table_->context[d] > length) {
      refuse(path(), fmt::format("document {} has {} tokens, but a context of {}", d, length,
                                 table_->context[d]));
    }
    if (table_->task[d] >= std::max<std::size_t>(1, header_.task_names.size())) {
      refuse(path(), fmt::format("document {} has task {}, but there are {} task names", d,
                                 table_->task[d], header_.task_names.size()));
    }
  }
}

std::vector<std::int32_t> ShardReader::read(std::int64_t begin, std::int64_t count) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  if (count == 0) {
    return tokens;
  }
  file_.read<std::int32_t>("/tokens", {begin}, {count}, tokens);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= header_.vocab_size) {
      refuse_token(begin + static_cast<std::int64_t>(i), tokens[i]);
    }
  }
  return tokens;
}

void ShardReader::refuse_token(std::int64_t position, std::int64_t value) {
  const auto& offsets = table().offsets;
  const auto after = std::upper_bound(offsets.begin(), offsets.end(), position);
  const auto document = after - offsets.begin() - 1;
  refuse(path(), fmt::format("document {}, position {}: token {} is not in the vocabulary of {}",
                             document, position - *(after - 1), value, header_.vocab_size));
}

}  // namespace moesaic::io
