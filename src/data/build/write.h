#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/config.h"
#include "data/build/plan_shards.h"
#include "data/corpus/shard.h"
#include "text/tokenizer.h"

// The second pass: each rank reads its shards' documents again, encodes and writes them.
namespace moesaic::data {

/// A document as token ids. A pair's context is given, not scored; where it is empty, bos (else
/// eos) stands for it. eos ends training text, but by default no pair. A document that names its
/// targets has bos and eos where it wants them: more come only if they are asked for, and not where
/// they are already. Such an eos is a target if what it ends is one.
DocumentRecord encode_document(const text::TextDocument& document, const text::Tokenizer& tokenizer,
                               config::Tri bos, config::Tri eos);

struct WriteRequest {
  const std::vector<text::InputFile>& files;
  const ShardPlan& plan;
  const text::Tokenizer& tokenizer;
  const std::vector<std::string>& task_names;
  const config::Tokenize& config;
  std::vector<std::filesystem::path> folders;  // of each corpus
  std::string name;                            // of the shards
  bool spans = false;                          // some document names its targets
};

/// A shard that this rank wrote.
struct WrittenShard {
  std::int64_t corpus = 0, shard = 0;
  ShardInfo info;
};

/// Writes the shards that fall to this rank.
std::vector<WrittenShard> write_shards(const WriteRequest& request, int rank, int ranks);

/// Collective over world: every shard of every corpus, in order, on rank 0 (elsewhere empty).
std::vector<std::vector<ShardInfo>> gather_shards(const std::vector<WrittenShard>& written,
                                                  const WriteRequest& request,
                                                  const comm::Communicator& world);

}  // namespace moesaic::data
