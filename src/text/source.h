#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/document.h"
#include "text/input_file.h"
#include "text/stream.h"

// Documents of text files and JSONL files, plain or packed by gzip or zstd, streamed: one document
// is in memory at a time.
namespace moesaic::text {

/// A line that is not a legal document (kBadData naming FILE:LINE); the reader can go on after it.
class BadLine : public Error {
 public:
  using Error::Error;
};

/// Reads the documents of one file, one after the other.
class DocumentReader {
 public:
  /// most: bytes of one text, or one line of JSONL; no more of it is ever in memory.
  DocumentReader(InputFile file, TextFields fields, std::int64_t most = kMostBytes);

  /// The next document; false at the end. Blank lines are passed over. May throw BadLine.
  bool next(TextDocument& document);
  /// Passes over what lies before `place` (which must not lie behind) without parsing it.
  void skip_to(const TextPlace& place);

 private:
  static constexpr std::int64_t kMostBytes = std::int64_t{1} << 30;

  void read_whole(std::string& text);
  bool fill();
  bool next_line();
  bool pass_line();
  std::span<const char> rest_of_line();
  void parse(TextDocument& document) const;
  [[noreturn]] void refuse_long(const std::string& where) const;

  InputFile file_;
  TextFields fields_;
  std::int64_t most_;
  TextStream stream_;
  std::vector<char> block_;
  std::size_t begin_ = 0, end_ = 0;  // of the bytes in block_ not yet used
  std::string line_;
  TextPlace next_;        // where the next line begins
  bool in_line_ = false;  // after a line that is too long: its rest comes next
  bool done_ = false;
};

}  // namespace moesaic::text
