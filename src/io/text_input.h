#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

// Which files the text of a corpus comes from, and what is in them: judged by their first bytes,
// since a name says little (C4 calls gzipped lines of JSON `.json.gz`).
namespace moesaic::io {

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

/// Files as they are; folders with all below them, also through links, sorted by name, without what
/// is hidden, what is no text (a notice counts it) and the files of a corpus that lies there. A
/// file that is named and is no text is kBadData with what it is; what is missing or may not be
/// read, links that lead nowhere or in a circle, and pipes are kNoInput. All name the absolute
/// path.
std::vector<InputFile> list_inputs(const std::vector<std::string>& inputs,
                                   const TextFields& fields = {});

}  // namespace moesaic::io
