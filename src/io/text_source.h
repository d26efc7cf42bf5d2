#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/text_stream.h"

// Documents of text files and JSONL files, plain, .gz or .zst, streamed: one document is in memory
// at a time.
namespace moesaic::io {

/// One file of the input, in input order.
struct InputFile {
  std::filesystem::path path;
  std::string name;        // the default id, or its part before ":LINE"
  std::int64_t input = 0;  // which entry of tokenize.input it came from
  std::int64_t bytes = 0;  // on disk
  bool jsonl = false;
};

/// Files as they are; folders recursively, their files sorted by name, without those that are
/// hidden or no text (a notice counts them). A missing input is kNoInput with its absolute path.
std::vector<InputFile> list_inputs(const std::vector<std::string>& inputs);

struct TextFields {
  std::string text = "text", id = "id", task = "task";
};

/// Where a document begins in its file: a line (from 0) and a byte of the unpacked file.
struct TextPlace {
  std::int64_t line = 0, offset = 0;
};

/// A document as it was written: text, or a context (which may be empty) and its continuation.
struct TextDocument {
  std::string id, task;       // task: empty if the line names none
  std::string context, text;  // text: of the document, or the continuation
  bool pair = false;
  TextPlace place;
};

/// A line that is not a legal document (kBadData naming FILE:LINE); the reader can go on after it.
class BadLine : public Error {
 public:
  using Error::Error;
};

/// Reads the documents of one file, one after the other.
class DocumentReader {
 public:
  DocumentReader(InputFile file, TextFields fields);

  /// The next document; false at the end. Blank lines are passed over. May throw BadLine.
  bool next(TextDocument& document);
  /// Passes over what lies before `place` (which must not lie behind) without parsing it.
  void skip_to(const TextPlace& place);

 private:
  void read_whole(std::string& text);
  bool fill();
  bool next_line();
  void parse(TextDocument& document) const;

  InputFile file_;
  TextFields fields_;
  TextStream stream_;
  std::vector<char> block_;
  std::size_t begin_ = 0, end_ = 0;  // of the bytes in block_ not yet used
  std::string line_;
  TextPlace next_;  // where the next line begins
  bool done_ = false;
};

}  // namespace moesaic::io
