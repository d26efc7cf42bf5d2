#pragma once

#include <filesystem>
#include <string>

#include "text/input_file.h"

namespace moesaic::text {

/// What a file holds, by its first (unpacked) bytes.
struct TextKind {
  enum class Is { kText, kLines, kJson, kBinary };  // kLines: a JSON object a line
  Is is = Is::kText;
  bool packed = false;
  std::string reason;     // of kJson and kBinary: what it is, and what the user can do
  bool manifest = false;  // of a corpus
};

/// Names that end in .jsonl, .ndjson or .jsonlines are lines of JSON, those in .json where the
/// first line is an object; both in any case, and before .gz or .zst.
TextKind kind_of(const std::filesystem::path& file);

/// Whether the first line of a .json file, which kind_of took for lines, has a field that a
/// document needs. A folder may hold all kinds of .json.
bool has_text_field(const std::filesystem::path& file, const TextFields& fields);

/// Whether the name alone says JSONL.
bool is_named_lines(const std::filesystem::path& file);

}  // namespace moesaic::text
