#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/corpora.h"

namespace moesaic::data {

/// What a continuation is asked for.
struct Prompt {
  std::int64_t document = 0;  // its number in all corpora, in their order
  std::string id;
  std::uint8_t task = 0;
  std::vector<std::int32_t> tokens;  // at least one
};

/// The documents of corpora as prompts, in parts of neighbours. A document's prompt is what lies
/// before its last span, where its shard has spans (without a span of its own: all of it), else its
/// context. Where that is nothing, it is all of the document but an eos at its end; an empty one
/// becomes bos, or eos. Parts depend on the corpora alone.
class Prompts {
 public:
  explicit Prompts(Corpora& corpora);

  std::int64_t documents() const { return first_.back(); }
  std::int64_t parts() const;
  std::int64_t documents_of(std::int64_t part) const;

  // These run on the HDF5 thread.
  std::vector<Prompt> read(std::int64_t part);
  /// Tokens of each prompt of a part, without reading them: an eos at the end is taken for granted.
  std::vector<std::int64_t> lengths(std::int64_t part);

 private:
  struct Location {
    std::int64_t shard, document;  // within the shard
  };
  struct PromptSize {
    std::int64_t tokens;  // with an eos at the end
    bool whole;           // nothing is given, so that an eos may be there
  };
  Location location_of(std::int64_t document) const;
  const ShardDocuments& table(std::int64_t shard);
  PromptSize size_of(const Location& location);

  Corpora& corpora_;
  std::int64_t eos_, first_token_;
  std::vector<std::int64_t> first_;  // document of each shard, and the end
  std::int64_t part_size_;
  std::int64_t held_ = -1;  // the shard whose table is held
  ShardDocuments table_;
};

}  // namespace moesaic::data
