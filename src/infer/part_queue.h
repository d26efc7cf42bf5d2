#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/prefetch.h"
#include "data/prompts.h"
#include "record/generations_output.h"

namespace moesaic::infer {

/// The prompts of a replica's parts, one part after the other; reads one part ahead.
class PromptSource {
 public:
  struct Part {
    std::int64_t number;
    std::vector<data::Prompt> prompts;
  };

  PromptSource(data::Prompts& prompts, std::vector<std::int64_t> parts);

  bool is_empty() const { return !next_.has_next(); }
  Part next();  // unless it is empty

 private:
  void read_ahead();

  data::Prompts& prompts_;
  std::vector<std::int64_t> parts_;
  std::size_t at_ = 0;
  data::Prefetch<std::vector<data::Prompt>> next_;
};

/// Parts of which some continuations have not ended.
class OpenParts {
 public:
  void open(const PromptSource::Part& part);
  void add(std::int64_t document, const record::Continuation& result,
           const std::optional<std::string>& text);
  /// Those that are whole, by number; they are not open any more.
  std::map<std::int64_t, record::GenerationsPart> take_whole();
  bool is_empty() const { return open_.empty(); }

 private:
  struct Open {
    std::int64_t first = 0, missing = 0;  // document; documents
    record::GenerationsPart content;
  };
  std::map<std::int64_t, Open> open_;  // by number, so by document as well
};

}  // namespace moesaic::infer
