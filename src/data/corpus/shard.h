#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "data/corpus/columns.h"
#include "data/corpus/corpus.h"
#include "data/corpus/target_columns.h"
#include "files/hdf5/file.h"

// One shard file: /tokens (u2 or u4, N) and /documents/* (D). Everything here runs on the HDF5
// thread.
//
// Version 2 has one of these: /documents/spans/{offsets [D + 1], begin [S], end [S]}, the targets
// of each document; /documents/group [D]; /documents/weight [D]. Without them version 1 is written.
namespace moesaic::data {

constexpr const char* kCorpusSchema = "moesaic-corpus";
constexpr std::int64_t kCorpusVersion = 2;  // the newest that is read

/// The root attributes of a shard.
struct ShardHeader {
  std::int64_t vocab_size = 0;
  std::string vocab_sha256;
  std::string tokenizer = "byte";  // or the name of the tokenizer's file
  std::vector<std::string> task_names = {"none"};
  std::int64_t eos_id = -1, bos_id = -1;
  std::int64_t shard_index = 0, shard_count = 1;
  bool spans = false;  // the documents name their targets
};

/// One document on its way into a shard.
struct DocumentRecord {
  std::vector<std::int32_t> tokens;
  std::int64_t context = 0;  // leading tokens that are given, not scored
  std::int64_t bytes = 0;    // of source text
  std::uint8_t task = 0;
  std::string id;
  /// The targets, ascending and apart; only where the header says spans. Without: all tokens behind
  /// the context.
  std::optional<std::vector<TokenRange>> spans = {};
  std::int64_t group = 0;  // neighbours of one number, not 0, belong together
  float weight = 1.0F;     // > 0
};

/// NAME-00012-of-00256.h5
std::string shard_file_name(const std::string& name, std::int64_t index, std::int64_t count);

/// Writes one shard to a temporary file; finish() makes it durable and visible. Holds one chunk of
/// tokens and the documents' scalars.
class ShardWriter {
 public:
  ShardWriter(const std::filesystem::path& file, ShardHeader header, bool compress);

  void add(const DocumentRecord& document);
  ShardInfo finish();

 private:
  void write_tokens(std::int64_t count);
  void write_documents();
  void write_targets();
  void write_attributes();
  std::int64_t version() const;

  std::filesystem::path final_;
  ShardHeader header_;
  bool compress_;
  files::Hdf5File file_;
  std::vector<std::int32_t> buffer_;  // tokens not yet written
  std::int64_t written_ = 0;
  Sha256 content_;
  std::vector<std::int64_t> offsets_ = {0}, context_, bytes_;
  std::vector<std::uint8_t> task_;
  std::vector<std::string> id_;
  DocumentSpans spans_;
  std::vector<std::int64_t> group_;
  std::vector<float> weight_;
};

/// Some documents of a shard that follow each other: as a whole table, without bytes, groups and
/// ids.
struct DocumentRun {
  std::int64_t first = 0;                      // number in the shard
  std::vector<std::int64_t> offsets, context;  // [n + 1], [n]
  std::vector<std::uint8_t> task;              // [n]
  DocumentSpans spans;
  std::vector<float> weight;  // [n]; empty: all 1

  std::vector<TokenRange> targets(std::size_t document) const {
    return targets_of(spans, document, offsets[document + 1] - offsets[document],
                      context[document]);
  }
};

/// One shard open for reading; its header and shapes are checked. The document table is read, and
/// checked, when first asked for.
class ShardReader {
 public:
  explicit ShardReader(const std::filesystem::path& file);

  const ShardHeader& header() const { return header_; }
  std::int64_t version() const { return version_; }
  std::int64_t tokens() const { return tokens_; }
  std::int64_t documents() const { return documents_; }
  std::int64_t source_bytes() const;  // 0 if unknown
  const std::filesystem::path& path() const { return file_.path(); }
  bool has_content_sha256() const;
  std::string content_sha256() const;

  bool knows_bytes() const { return file_.has("/documents/bytes"); }

  const ShardDocuments& table();
  /// The documents that tokens [begin, begin + count) lie in, of which only their part of the table
  /// is read, and checked. 0 <= begin < begin + count <= tokens().
  DocumentRun documents_of(std::int64_t begin, std::int64_t count);
  std::vector<std::string> ids() const;  // FILE:NUMBER if absent
  /// Tokens [begin, begin + count), each checked against the vocabulary.
  std::vector<std::int32_t> read(std::int64_t begin, std::int64_t count);

 private:
  void check_offsets(std::int64_t first, const std::vector<std::int64_t>& offsets) const;
  void check_document(std::int64_t document, std::int64_t length, std::int64_t context,
                      std::int64_t task) const;
  [[noreturn]] void refuse_token(std::int64_t position, std::int64_t value);

  files::Hdf5File file_;
  ShardHeader header_;
  std::int64_t version_ = 1;
  std::int64_t tokens_ = 0, documents_ = 0;
  bool wide_tokens_ = false;               // they are stored in eight bytes
  std::unique_ptr<ShardDocuments> table_;  // without ids
  ColumnBlocks offsets_, context_, task_;
  TargetColumns targets_;
};

/// The running SHA-256 of a shard's content: all tokens as u4, then all offsets as u8,
/// little-endian. Then, where the shard has them, "spans" with their offsets as u8 and each begin
/// and end as u8, "group" with the groups as u8, "weight" with the weights as f4.
void hash_tokens(Sha256& hash, std::span<const std::int32_t> tokens);
void hash_offsets(Sha256& hash, std::span<const std::int64_t> offsets);
void hash_targets(Sha256& hash, const DocumentSpans& spans, std::span<const std::int64_t> group,
                  std::span<const float> weight);

}  // namespace moesaic::data
