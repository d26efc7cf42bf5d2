#include "text/source.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "files/lenient_json.h"

namespace moesaic::text {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBlockBytes = 1 << 18;

}  // namespace

DocumentReader::DocumentReader(InputFile file, TextFields fields, std::int64_t most)
    : file_(std::move(file)),
      fields_(std::move(fields)),
      most_(most),
      stream_(file_.path),
      block_(kBlockBytes) {}

bool DocumentReader::fill() {
  begin_ = 0;
  end_ = stream_.read(block_);
  return end_ > 0;
}

void DocumentReader::refuse_long(const std::string& where) const {
  throw BadLine(Exit::kBadData,
                fmt::format("{} is longer than tokenize.max_document = {} bytes: cut it into "
                            "documents (a line of JSONL each), raise that limit, or use "
                            "tokenize.on_error=skip",
                            where, most_));
}

void DocumentReader::read_whole(std::string& text) {
  while (begin_ < end_ || fill()) {
    if (std::ssize(text) + static_cast<std::int64_t>(end_ - begin_) > most_) {
      refuse_long(fs::absolute(file_.path).string());
    }
    text.append(block_.data() + begin_, end_ - begin_);
    begin_ = end_;
  }
}

/// What the block holds of the line, without its end.
std::span<const char> DocumentReader::rest_of_line() {
  const auto block = std::span<const char>(block_).subspan(begin_, end_ - begin_);
  const auto end = std::find(block.begin(), block.end(), '\n');
  return block.first(static_cast<std::size_t>(end - block.begin()));
}

/// Goes over the rest of a line without keeping it; false at the end of the file.
bool DocumentReader::pass_line() {
  bool any = in_line_;
  in_line_ = false;
  while (begin_ < end_ || fill()) {
    const std::size_t size = rest_of_line().size();
    begin_ += size;
    next_.offset += static_cast<std::int64_t>(size) + 1;
    any = true;
    if (begin_ < end_) {
      ++begin_;
      break;
    }
    --next_.offset;  // the line goes on in the next block
  }
  next_.line += any ? 1 : 0;
  return any;
}

/// The line is in line_, and next_ behind it; false at the end of the file.
bool DocumentReader::next_line() {
  line_.clear();
  while (begin_ < end_ || fill()) {
    const auto part = rest_of_line();
    if (std::ssize(line_) + std::ssize(part) > most_) {
      next_.offset += std::ssize(line_);
      in_line_ = true;
      refuse_long(fmt::format("{}:{}", fs::absolute(file_.path).string(), next_.line + 1));
    }
    line_.append(part.begin(), part.end());
    begin_ += part.size();
    if (begin_ < end_) {
      ++begin_;
      break;
    }
  }
  // Only the last line may lack its end, and nothing follows it.
  if (line_.empty() && begin_ == 0 && end_ == 0) {
    return false;
  }
  next_.offset += std::ssize(line_) + 1;
  ++next_.line;
  return true;
}

bool DocumentReader::next(TextDocument& document) {
  document = {};
  if (!file_.jsonl) {
    if (done_) {
      return false;
    }
    done_ = true;
    document.id = file_.name;
    read_whole(document.text);
    return true;
  }
  if (in_line_) {
    pass_line();
  }
  document.place = next_;
  while (next_line()) {
    if (!trim(line_).empty()) {
      parse(document);
      return true;
    }
    document.place = next_;
  }
  return false;
}

void DocumentReader::parse(TextDocument& document) const {
  const std::string where = fmt::format("{}:{}", file_.name, document.place.line + 1);
  try {
    const Json line = files::parse_lenient_json(line_);
    parse_document(line, fields_, document);
  } catch (const std::bad_alloc&) {
    throw;  // of the line nothing is known
  } catch (const std::exception& error) {
    throw BadLine(
        Exit::kBadData,
        fmt::format("{}:{}: not a legal document: {}; mend the line, or use "
                    "tokenize.on_error=skip",
                    fs::absolute(file_.path).string(), document.place.line + 1, error.what()));
  }
  if (document.id.empty()) {
    document.id = where;
  }
}

void DocumentReader::skip_to(const TextPlace& place) {
  if (!file_.jsonl) {
    return;
  }
  if (!stream_.is_packed() && place.offset > next_.offset) {
    stream_.seek(place.offset);
    begin_ = end_ = 0;
    next_ = place;
    in_line_ = false;
  }
  while (next_.line < place.line && pass_line()) {
  }
}

}  // namespace moesaic::text
