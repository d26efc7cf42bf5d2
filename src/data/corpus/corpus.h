#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/corpus/targets.h"

namespace moesaic::data {

/// What the manifest (or a bare shard) says, without opening every shard.
struct ShardInfo {
  std::filesystem::path file;
  std::int64_t bytes = 0;
  std::int64_t tokens = 0, documents = 0;
  std::string sha256;  // of the file; empty for a bare shard
  // Known of shards that were just written: of the format, and with spans the tokens to predict and
  // the documents that have none.
  std::int64_t version = 1, targets = 0, without_targets = 0;
};
struct CorpusInfo {
  std::string name;
  std::filesystem::path manifest;  // empty for bare shards
  std::int64_t tokens = 0, documents = 0;
  std::int64_t source_bytes = 0;  // of text; 0 if unknown
  std::int64_t vocab_size = 0;
  std::string vocab_sha256;
  std::int64_t eos_id = -1, bos_id = -1;  // -1: none
  std::filesystem::path tokenizer;        // file beside the manifest; empty for bytes
  std::vector<std::string> task_names;    // [0] = "none"
  std::vector<ShardInfo> shards;
  std::string fingerprint;   // of the inputs and settings it was made from; empty if unknown
  std::int64_t version = 1;  // of its format
  bool spans = false;        // its documents name their targets: each of its shards has spans
};

/// What makes a corpus another one for whoever reads its tokens: its fingerprint, or the sizes and
/// counts of its shards and its vocabulary.
std::string data_fingerprint(const CorpusInfo& info);

/// Finds a corpus. path: a manifest, a folder with one manifest, a shard file, or a glob of shard
/// files. Checks names, sizes and counts against the manifest. kNoInput, kBadData name file and
/// remedy.
CorpusInfo find_corpus(const std::string& path);

/// The numbers of a corpus's tasks in `names`, which are joined by those that are new. Throws
/// kBadData if a byte cannot count them.
std::vector<std::uint8_t> join_tasks(const CorpusInfo& corpus, std::vector<std::string>& names);

/// Tokens [begin, begin + n) of a corpus's stream (its shards in manifest order) and, for each
/// token, where it stands.
struct TokenSpan {
  std::vector<std::int32_t> token;
  std::vector<std::int64_t> document;        // global number in the corpus
  std::vector<std::int64_t> document_begin;  // stream position of its document's first token
  std::vector<std::uint8_t> target;          // 1: to be predicted from the tokens before it
  std::vector<std::uint8_t> task;            // index into task_names; 0 = none
  std::vector<float> weight;                 // of its document
};

/// The documents of one shard: token offsets [D + 1] within the shard, and what is known of each.
struct ShardDocuments {
  std::vector<std::int64_t> offsets;
  std::vector<std::int64_t> context, bytes;  // [D]; zeros if absent
  std::vector<std::uint8_t> task;            // [D]; zeros if absent
  std::vector<std::string> id;               // [D]; empty if absent
  bool knows_bytes = true;                   // false: the column bytes is absent
  DocumentSpans spans = {};
  std::vector<std::int64_t> group = {};  // [D] neighbours of one number, not 0, belong together;
                                         // empty if absent
  std::vector<float> weight = {};        // [D] > 0; empty: all 1

  std::vector<TokenRange> targets(std::size_t document) const {
    return targets_of(spans, document, offsets[document + 1] - offsets[document],
                      context[document]);
  }
};

/// A corpus open for reading: streams, holds the files and document tables of the few shards used
/// last. open() may be called anywhere; the reads must run on the HDF5 thread.
class Corpus {
 public:
  /// One that was found. A shard is looked at when it is read.
  explicit Corpus(CorpusInfo info);
  static Corpus open(const std::string& path) { return Corpus(find_corpus(path)); }
  Corpus(Corpus&&) noexcept;
  Corpus& operator=(Corpus&&) noexcept;
  ~Corpus();

  const CorpusInfo& info() const;
  TokenSpan read(std::int64_t begin, std::int64_t count);
  ShardDocuments documents(std::int64_t shard);
  /// The documents without ids and without a copy: valid until the next read of this corpus.
  const ShardDocuments& document_table(std::int64_t shard);
  /// Tokens [begin, begin + count) of one shard. A token >= vocab_size is kBadData with document,
  /// position and value; so is a chunk whose checksum is wrong.
  std::vector<std::int32_t> shard_tokens(std::int64_t shard, std::int64_t begin,
                                         std::int64_t count);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Every problem of a corpus, one line each (empty: sound): manifest, sizes, hashes, offsets, token
/// range, task indices, spans, groups, weights.
std::vector<std::string> verify_corpus(const std::filesystem::path& path);

}  // namespace moesaic::data
