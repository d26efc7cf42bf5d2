#include "text/source.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "files/lenient_json.h"
#include "files/white_space.h"

namespace moesaic::text {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBlockBytes = 1 << 18;
/// A field that is text and must be there.
std::string text_of(const Json& line, const std::string& field) {
  const Json* const found = line.find(field);
  if (found == nullptr) {
    throw Error(Exit::kBadData, fmt::format("its field '{}' is missing", field));
  }
  if (!found->is_string()) {
    throw Error(Exit::kBadData, fmt::format("its field '{}' is not a string", field));
  }
  return found->get<std::string>();
}

/// Empty if it is absent or null.
std::string optional_text_of(const Json& line, const std::string& field) {
  const Json* const found = line.find(field);
  return found == nullptr || found->is_null() ? "" : text_of(line, field);
}

/// An id may also be a number.
std::string id_of(const Json& line, const std::string& field) {
  const Json* const found = line.find(field);
  if (found != nullptr && found->is_number()) {
    return found->dump();
  }
  return optional_text_of(line, field);
}

/// Whether the line is a context and a continuation, not text.
bool is_pair(const Json& line, const std::string& text_field) {
  const bool text = line.contains(text_field);
  const bool continuation = text_field != "continuation" && line.contains("continuation");
  if (!text && !continuation) {
    throw Error(Exit::kBadData, fmt::format("neither '{}' nor 'context' and 'continuation' are "
                                            "there (tokenize.text_field)",
                                            text_field));
  }
  if (text && continuation && text_field != "context") {
    throw Error(Exit::kBadData, fmt::format("it has both '{}' and 'continuation': a line is either "
                                            "text or context and continuation",
                                            text_field));
  }
  return !text;
}

/// White space at the end of the context moves to the continuation, as in lm-evaluation-harness: a
/// word keeps the space before it.
void move_spaces(TextDocument& document) {
  const std::size_t kept = files::size_without_space(document.context);
  document.text.insert(0, document.context.substr(kept));
  document.context.resize(kept);
}

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
    if (!line.is_object()) {
      throw Error(Exit::kBadData, "the line is not a JSON object");
    }
    document.pair = is_pair(line, fields_.text);
    document.text = text_of(line, document.pair ? "continuation" : fields_.text);
    document.id = id_of(line, fields_.id);
    document.task = optional_text_of(line, fields_.task);
    if (document.pair) {
      document.context = text_of(line, "context");
      move_spaces(document);
    }
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
