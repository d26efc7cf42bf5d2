#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace moesaic::text {

/// Names of the fields of a JSONL line.
struct TextFields {
  std::string text = "text", id = "id", task = "task";
};

/// One file of the input, in input order.
struct InputFile {
  std::filesystem::path path;
  std::string name;        // the default id, or its part before ":LINE"; UTF-8
  std::int64_t input = 0;  // which entry of tokenize.input it came from
  std::int64_t bytes = 0;  // on disk
  bool jsonl = false;      // a document a line; else the file is one text
  bool packed = false;
};

}  // namespace moesaic::text
