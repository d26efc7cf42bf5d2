#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "data/corpus/columns.h"
#include "data/corpus/shard.h"
#include "files/durable.h"
#include "files/format_version.h"

namespace moesaic::data {
namespace {

// A sample reads whole chunks: of its tokens, and of the few columns that say where it stands.
// Deflated ones hold more, as they are smaller in the file.
constexpr std::int64_t kTokenChunk = 16384, kDeflatedTokenChunk = 65536;  // bytes
constexpr std::int64_t kColumnChunk = 2048, kDeflatedColumnChunk = 8192;  // bytes
constexpr std::int64_t kIdChunk = 4096;   // ids; their padding compresses to nothing
constexpr std::int64_t kAtOnce = 262144;  // tokens that are written together: whole chunks

/// Tokens of one chunk: two bytes each while the vocabulary allows it.
std::int64_t chunk_tokens(std::int64_t vocab_size, bool compress) {
  return (compress ? kDeflatedTokenChunk : kTokenChunk) / (vocab_size <= 65536 ? 2 : 4);
}

template <class T>
void write_column(files::Hdf5File& file, const std::string& name, const std::vector<T>& values,
                  bool compress) {
  const auto size = static_cast<std::int64_t>(values.size());
  const std::int64_t chunk =
      (compress ? kDeflatedColumnChunk : kColumnChunk) / static_cast<std::int64_t>(sizeof(T));
  file.create_dataset<T>(name, {size}, {.chunk = {chunk}, .checksum = true, .compress = compress});
  // A chunk of zeros is not written: it reads as zeros, without looking into the file.
  const auto is_zero = [&](std::int64_t begin) {
    const auto first = values.begin() + begin;
    return std::all_of(first, first + std::min(chunk, size - begin), [](T v) { return v == 0; });
  };
  for (std::int64_t begin = 0; begin < size;) {
    std::int64_t end = begin;
    while (end < size && !is_zero(end)) {
      end = std::min(size, end + chunk);
    }
    if (end > begin) {
      file.write<T>(name, {begin}, {end - begin},
                    std::span(values).subspan(static_cast<std::size_t>(begin),
                                              static_cast<std::size_t>(end - begin)));
    }
    begin = std::max(end, begin + chunk);
  }
}

std::vector<std::uint64_t> unsigned_of(const std::vector<std::int64_t>& values) {
  return {values.begin(), values.end()};
}

}  // namespace

std::string shard_file_name(const std::string& name, std::int64_t index, std::int64_t count) {
  return fmt::format("{}-{:05}-of-{:05}.h5", name, index, count);
}

ShardWriter::ShardWriter(const std::filesystem::path& file, ShardHeader header, bool compress)
    : final_(file),
      header_(std::move(header)),
      compress_(compress),
      file_(files::Hdf5File::create(file.string() + ".tmp")) {
  const files::Hdf5File::Layout layout{.chunk = {chunk_tokens(header_.vocab_size, compress)},
                                       .unlimited = true,
                                       .checksum = true,
                                       .compress = compress};
  if (header_.vocab_size <= 65536) {
    file_.create_dataset<std::uint16_t>("/tokens", {0}, layout);
  } else {
    file_.create_dataset<std::uint32_t>("/tokens", {0}, layout);
  }
}

void ShardWriter::add(const DocumentRecord& document) {
  for (const std::int32_t token : document.tokens) {
    require(token >= 0 && token < header_.vocab_size, "a token is outside its vocabulary");
  }
  buffer_.insert(buffer_.end(), document.tokens.begin(), document.tokens.end());
  offsets_.push_back(offsets_.back() + std::ssize(document.tokens));
  context_.push_back(document.context);
  bytes_.push_back(document.bytes);
  task_.push_back(document.task);
  id_.push_back(document.id);
  const std::int64_t size = std::ssize(document.tokens);
  require(header_.spans || !document.spans, "spans in a shard without spans");
  if (header_.spans) {
    const TokenRange rest{document.context, size};
    const std::vector<TokenRange> spans =
        document.spans.value_or(rest.begin < size ? std::vector{rest} : std::vector<TokenRange>());
    std::int64_t before = 0;
    for (const TokenRange& span : spans) {
      require(span.begin >= before && span.begin < span.end && span.end <= size,
              "the spans of a document are not in order");
      before = span.end;
    }
    spans_.append(spans);
  }
  require(document.group >= 0 && std::isfinite(document.weight) && document.weight > 0.0F,
          "a group or a weight of a document is not legal");
  group_.push_back(document.group);
  weight_.push_back(document.weight);
  write_tokens(std::ssize(buffer_) / kAtOnce * kAtOnce);
}

/// The first tokens of the buffer.
void ShardWriter::write_tokens(std::int64_t count) {
  if (count == 0) {
    return;
  }
  const auto tokens = std::span<const std::int32_t>(buffer_).first(static_cast<std::size_t>(count));
  file_.extend("/tokens", {written_ + count});
  file_.write<std::int32_t>("/tokens", {written_}, {count}, tokens);
  hash_tokens(content_, tokens);
  written_ += count;
  buffer_.erase(buffer_.begin(), buffer_.begin() + count);
}

void ShardWriter::write_documents() {
  write_column(file_, "/documents/offsets", unsigned_of(offsets_), compress_);
  write_column(file_, "/documents/context", unsigned_of(context_), compress_);
  write_column(file_, "/documents/bytes", unsigned_of(bytes_), compress_);
  write_column(file_, "/documents/task", task_, compress_);
  write_texts(file_, "/documents/id", id_,
              {.chunk = {kIdChunk}, .checksum = true, .compress = true});
  write_targets();
}

/// What is there of version 2.
void ShardWriter::write_targets() {
  if (header_.spans) {
    if (!spans_.exist()) {
      spans_.offsets = {0};  // a shard without documents
    }
    std::vector<std::uint32_t> begin, end;
    for (const TokenRange& range : spans_.ranges) {
      begin.push_back(static_cast<std::uint32_t>(range.begin));
      end.push_back(static_cast<std::uint32_t>(range.end));
    }
    write_column(file_, fmt::format("{}/offsets", kSpans), unsigned_of(spans_.offsets), compress_);
    write_column(file_, fmt::format("{}/begin", kSpans), begin, compress_);
    write_column(file_, fmt::format("{}/end", kSpans), end, compress_);
  }
  if (!group_.empty()) {
    write_column(file_, kGroup, unsigned_of(group_), compress_);
  }
  if (!weight_.empty()) {
    write_column(file_, kWeight, weight_, compress_);
  }
}

std::int64_t ShardWriter::version() const {
  return header_.spans || !group_.empty() || !weight_.empty() ? 2 : 1;
}

void ShardWriter::write_attributes() {
  files::write_format(file_, kCorpusSchema, version());
  file_.set_attribute("/", "vocab_size", header_.vocab_size);
  file_.set_attribute("/", "vocab_sha256", header_.vocab_sha256);
  file_.set_attribute("/", "tokenizer", header_.tokenizer);
  file_.set_attribute("/", "task_names", header_.task_names);
  file_.set_attribute("/", "eos_id", header_.eos_id);
  file_.set_attribute("/", "bos_id", header_.bos_id);
  file_.set_attribute("/", "num_tokens", written_);
  file_.set_attribute("/", "num_documents", static_cast<std::int64_t>(id_.size()));
  file_.set_attribute("/", "shard_index", header_.shard_index);
  file_.set_attribute("/", "shard_count", header_.shard_count);
  hash_offsets(content_, offsets_);
  hash_targets(content_, spans_, group_, weight_);
  file_.set_attribute("/", "content_sha256", content_.hex());
}

ShardInfo ShardWriter::finish() {
  // Columns that say nothing are not written.
  if (std::all_of(group_.begin(), group_.end(), [](std::int64_t each) { return each == 0; })) {
    group_.clear();
  }
  if (std::all_of(weight_.begin(), weight_.end(), [](float each) { return each == 1.0F; })) {
    weight_.clear();
  }
  write_tokens(std::ssize(buffer_));
  write_documents();
  write_attributes();
  const std::filesystem::path temporary = file_.path();
  file_.close();
  ShardInfo info;
  info.bytes = static_cast<std::int64_t>(std::filesystem::file_size(temporary));
  info.sha256 = files::sha256_of_file(temporary);
  info.tokens = written_;
  info.documents = std::ssize(id_);
  info.file = final_;
  info.version = version();
  for (std::size_t d = 0; header_.spans && d < id_.size(); ++d) {
    const std::int64_t targets =
        count_of(targets_of(spans_, d, offsets_[d + 1] - offsets_[d], context_[d]));
    info.targets += targets;
    info.without_targets += targets == 0 ? 1 : 0;
  }
  files::publish(temporary, final_);
  return info;
}

}  // namespace moesaic::data
