#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "text/input_file.h"

namespace moesaic::text {

/// Where a document begins in its file: a line (from 0) and a byte of the unpacked file.
struct TextPlace {
  std::int64_t line = 0, offset = 0;
};

/// Bytes [begin, end) of a text, or ids of a document that comes as ids.
struct TextRange {
  std::int64_t begin = 0, end = 0;
  bool operator==(const TextRange&) const = default;
};

/// A document as it was written: text, a context (which may be empty) and its continuation, or
/// token ids.
struct TextDocument {
  std::string id, task;       // task: empty if the line names none
  std::string context, text;  // text: of the document, or the continuation
  bool pair = false;
  TextPlace place;
  std::optional<std::vector<std::int32_t>> ids = {};  // instead of text
  /// The targets of a document that names them: they ascend, do not overlap and are not empty.
  /// bos and eos are in such a document already where it has them.
  std::optional<std::vector<TextRange>> spans = {};
  bool prompt = false;     // it has no targets on purpose
  std::string group = {};  // neighbours of one group belong together; empty: alone
  float weight = 1.0F;     // > 0
};

/// Whether a range has something in common with one of those, which ascend.
bool overlaps(std::span<const TextRange> ranges, const TextRange& range);

/// Reads a line of JSONL. Throws kBadData, or another exception for what is not of its type; the
/// message does not name the line.
void parse_document(const Json& line, const TextFields& fields, TextDocument& document);

}  // namespace moesaic::text
