#include "data/corpus/shard.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "data/corpus/shard_checks.h"
#include "files/format_version.h"

namespace moesaic::data {
namespace {

std::string string_or(const files::Hdf5File& file, const std::string& name, const char* otherwise) {
  return file.has_attribute("/", name) ? file.string_attribute("/", name) : otherwise;
}

/// A whole number that the file must have; some programs know numbers as doubles alone.
std::int64_t whole_number(const files::Hdf5File& file, const std::string& name) {
  if (!file.has_attribute("/", name)) {
    throw Error(Exit::kBadData,
                fmt::format("{}: has no attribute '{}': {}",
                            std::filesystem::absolute(file.path()).string(), name, kShardRemedy));
  }
  const double value = file.double_attribute("/", name);
  if (std::abs(value) > 9e15 || value != std::floor(value)) {
    refuse_shard(file.path(),
                 fmt::format("its attribute '{}' is {}, not a whole number", name, value));
  }
  return static_cast<std::int64_t>(value);
}

std::int64_t int_or(const files::Hdf5File& file, const std::string& name, std::int64_t otherwise) {
  return file.has_attribute("/", name) ? whole_number(file, name) : otherwise;
}

ShardHeader header_of(const files::Hdf5File& file) {
  const std::string schema = string_or(file, "schema", "");
  if (schema != kCorpusSchema) {
    throw Error(Exit::kBadData, fmt::format("{}: its attribute 'schema' is '{}', not '{}': {}",
                                            std::filesystem::absolute(file.path()).string(), schema,
                                            kCorpusSchema, kShardRemedy));
  }
  files::check_format(file.path(), schema, whole_number(file, "version"), kCorpusSchema,
                      kCorpusVersion);
  ShardHeader header;
  header.vocab_size = whole_number(file, "vocab_size");
  if (header.vocab_size < 1) {
    refuse_shard(file.path(), fmt::format("its vocab_size is {}", header.vocab_size));
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

/// An optional column of [documents] values; zeros if absent.
std::vector<std::int64_t> column(const files::Hdf5File& file, const std::string& name,
                                 std::int64_t documents) {
  check_length(file, name, documents);
  return file.has(name) ? file.read_all<std::int64_t>(name)
                        : std::vector<std::int64_t>(static_cast<std::size_t>(documents));
}

void accept_all(std::int64_t /*first*/, const std::vector<std::int64_t>& /*values*/) {}

}  // namespace

void hash_tokens(Sha256& hash, std::span<const std::int32_t> tokens) {
  hash.update(std::as_bytes(tokens));
}

void hash_offsets(Sha256& hash, std::span<const std::int64_t> offsets) {
  hash.update(std::as_bytes(offsets));
}

void hash_targets(Sha256& hash, const DocumentSpans& spans, std::span<const std::int64_t> group,
                  std::span<const float> weight) {
  const auto add = [&hash](std::string_view name, auto values) {
    hash.update(std::as_bytes(std::span(name)));
    hash.update(std::as_bytes(values));
  };
  if (spans.exist()) {
    add("spans", std::span(spans.offsets));
    for (const TokenRange& range : spans.ranges) {
      const std::array<std::int64_t, 2> ends = {range.begin, range.end};
      hash.update(std::as_bytes(std::span(ends)));
    }
  }
  if (!group.empty()) {
    add("group", group);
  }
  if (!weight.empty()) {
    add("weight", weight);
  }
}

ShardReader::ShardReader(const std::filesystem::path& file) : file_(files::Hdf5File::open(file)) {
  header_ = header_of(file_);
  tokens_ = length_of(file_, "/tokens");
  const std::string type = file_.type_of("/tokens");
  wide_tokens_ = type.ends_with('8');
  if (type[0] != 'u' && type[0] != 'i') {
    throw Error(Exit::kBadData,
                fmt::format("{}: /tokens is {}: store whole numbers of 1, 2, 4 or 8 bytes",
                            std::filesystem::absolute(file).string(), type));
  }
  documents_ = length_of(file_, "/documents/offsets") - 1;
  if (documents_ < 0) {
    refuse_shard(file, "/documents/offsets is empty; it needs the number of documents + 1 entries");
  }
  const std::int64_t said_tokens = int_or(file_, "num_tokens", tokens_);
  const std::int64_t said_documents = int_or(file_, "num_documents", documents_);
  if (said_tokens != tokens_ || said_documents != documents_) {
    refuse_shard(file, fmt::format("it says {} tokens in {} documents, but holds {} in {}",
                                   said_tokens, said_documents, tokens_, documents_));
  }
  check_length(file_, "/documents/context", documents_);
  check_length(file_, "/documents/task", documents_);
  offsets_ = ColumnBlocks(file_, "/documents/offsets", documents_ + 1);
  context_ = ColumnBlocks(file_, "/documents/context", documents_);
  task_ = ColumnBlocks(file_, "/documents/task", documents_);
  version_ = whole_number(file_, "version");
  targets_ = TargetColumns(file_, version_, documents_);
  header_.spans = targets_.has_spans();
}

std::int64_t ShardReader::source_bytes() const {
  const auto bytes = column(file_, "/documents/bytes", documents_);
  return std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
}

bool ShardReader::has_content_sha256() const { return file_.has_attribute("/", "content_sha256"); }

std::string ShardReader::content_sha256() const {
  return file_.string_attribute("/", "content_sha256");
}

const ShardDocuments& ShardReader::table() {
  if (table_) {
    return *table_;
  }
  auto table = std::make_unique<ShardDocuments>();
  table->offsets = file_.read_all<std::int64_t>("/documents/offsets");
  check_offsets(0, table->offsets);
  table->context = column(file_, "/documents/context", documents_);
  table->bytes = column(file_, "/documents/bytes", documents_);
  table->knows_bytes = knows_bytes();
  const auto task = column(file_, "/documents/task", documents_);
  for (std::int64_t d = 0; d < documents_; ++d) {
    const auto at = static_cast<std::size_t>(d);
    check_document(d, table->offsets[at + 1] - table->offsets[at], table->context[at], task[at]);
    table->task.push_back(static_cast<std::uint8_t>(task[at]));
  }
  targets_.read(file_, *table);
  table_ = std::move(table);
  return *table_;
}

DocumentRun ShardReader::documents_of(std::int64_t begin, std::int64_t count) {
  const auto check = [this](std::int64_t first, const std::vector<std::int64_t>& offsets) {
    check_offsets(first, offsets);
  };
  const auto offset = [&](std::int64_t d) { return offsets_.at(file_, d, check); };
  DocumentRun run;
  run.first = find_in(offsets_, file_, documents_ + 1, tokens_, begin, check);
  run.offsets.push_back(offset(run.first));
  for (std::int64_t d = run.first; run.offsets.back() < begin + count; ++d) {
    if (d == documents_ || offset(d + 1) < run.offsets.back()) {
      table();  // says which entry is wrong
      refuse_shard(path(), "/documents/offsets are not sorted");
    }
    run.offsets.push_back(offset(d + 1));
    run.context.push_back(context_.at(file_, d, accept_all));
    const std::int64_t task = task_.at(file_, d, accept_all);
    check_document(d, run.offsets.back() - *(run.offsets.end() - 2), run.context.back(), task);
    run.task.push_back(static_cast<std::uint8_t>(task));
    targets_.append(file_, d, run);
  }
  return run;
}

std::vector<std::string> ShardReader::ids() const {
  if (!file_.has("/documents/id")) {
    std::vector<std::string> numbered;
    for (std::int64_t d = 0; d < documents_; ++d) {
      numbered.push_back(fmt::format("{}:{}", path().filename().string(), d));
    }
    return numbered;
  }
  check_length(file_, "/documents/id", documents_);
  return read_texts(file_, "/documents/id");
}

/// Checks offsets [first, first + size) of the documents: sorted, from 0 to the number of tokens.
void ShardReader::check_offsets(std::int64_t first,
                                const std::vector<std::int64_t>& offsets) const {
  check_sorted(path(), "/documents/offsets", first, offsets);
  if (first + std::ssize(offsets) == documents_ + 1 && offsets.back() != tokens_) {
    refuse_shard(path(), fmt::format("/documents/offsets ends with {}, but there are {} tokens",
                                     offsets.back(), tokens_));
  }
}

void ShardReader::check_document(std::int64_t document, std::int64_t length, std::int64_t context,
                                 std::int64_t task) const {
  if (context < 0 || context > length) {
    refuse_shard(path(), fmt::format("document {} has {} tokens, but a context of {}", document,
                                     length, context));
  }
  const std::int64_t tasks = std::max<std::int64_t>(1, std::ssize(header_.task_names));
  if (task < 0 || task >= tasks) {
    refuse_shard(path(), fmt::format("document {} has task {}, but there are {} task names",
                                     document, task, header_.task_names.size()));
  }
}

std::vector<std::int32_t> ShardReader::read(std::int64_t begin, std::int64_t count) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  if (count == 0) {
    return tokens;
  }
  std::vector<std::int64_t> wide;  // what does not fit into the type is cut by HDF5
  if (wide_tokens_) {
    wide.resize(tokens.size());
    file_.read<std::int64_t>("/tokens", {begin}, {count}, wide);
  } else {
    file_.read<std::int32_t>("/tokens", {begin}, {count}, tokens);
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::int64_t token = wide_tokens_ ? wide[i] : tokens[i];
    if (token < 0 || token >= header_.vocab_size) {
      refuse_token(begin + static_cast<std::int64_t>(i), token);
    }
    tokens[i] = static_cast<std::int32_t>(token);
  }
  return tokens;
}

void ShardReader::refuse_token(std::int64_t position, std::int64_t value) {
  const auto& offsets = table().offsets;
  const auto after = std::upper_bound(offsets.begin(), offsets.end(), position);
  const auto document = after - offsets.begin() - 1;
  refuse_shard(path(),
               fmt::format("document {}, position {}: token {} is not in the vocabulary of {}",
                           document, position - *(after - 1), value, header_.vocab_size));
}

}  // namespace moesaic::data
