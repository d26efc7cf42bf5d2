#include "io/text_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"

namespace moesaic::io {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::size_t kBlockBytes = 1 << 18;
constexpr std::size_t kLookBytes = 8192;

bool is_jsonl(const fs::path& file) {
  const fs::path name = packing_of(file).empty() ? file : file.stem();
  return name.extension() == ".jsonl";
}

/// Whether a file found in a folder is text: no NUL near its start.
bool looks_like_text(const fs::path& file) {
  TextStream stream(file);
  std::vector<char> start(kLookBytes);
  const std::size_t count = stream.read(start);
  return std::find(start.begin(), start.begin() + static_cast<std::ptrdiff_t>(count), '\0') ==
         start.begin() + static_cast<std::ptrdiff_t>(count);
}

InputFile input_file(const fs::path& path, const std::string& name, std::int64_t input) {
  return {path, name, input, static_cast<std::int64_t>(fs::file_size(path)), is_jsonl(path)};
}

void list_folder(const fs::path& folder, std::int64_t input, std::vector<InputFile>& files) {
  std::vector<std::pair<std::string, fs::path>> found;
  int binary = 0;
  for (auto entry = fs::recursive_directory_iterator(folder);
       entry != fs::recursive_directory_iterator(); ++entry) {
    if (entry->path().filename().string().starts_with('.')) {
      if (entry->is_directory()) {
        entry.disable_recursion_pending();
      }
    } else if (entry->is_regular_file()) {
      if (looks_like_text(entry->path())) {
        found.emplace_back(entry->path().lexically_relative(folder).generic_string(),
                           entry->path());
      } else {
        ++binary;
      }
    }
  }
  if (binary > 0) {
    log::warn(
        fmt::format("tokenize.input: {} files in {} are not text (they hold NUL bytes) and "
                    "are left out",
                    binary, fs::absolute(folder).string()));
  }
  std::sort(found.begin(), found.end());
  for (const auto& [name, path] : found) {
    files.push_back(input_file(path, name, input));
  }
}

/// Names that two inputs share are told apart by the inputs as they were given.
void make_names_distinct(const std::vector<std::string>& inputs, std::vector<InputFile>& files) {
  std::map<std::string, int> uses;
  for (const InputFile& file : files) {
    ++uses[file.name];
  }
  for (InputFile& file : files) {
    if (uses[file.name] > 1) {
      const fs::path given = inputs[static_cast<std::size_t>(file.input)];
      const fs::path full = fs::is_directory(given) ? given / file.name : given;
      file.name = full.lexically_normal().generic_string();
    }
  }
}

/// A field that is text and must be there.
std::string text_of(const json& line, const std::string& field) {
  const auto found = line.find(field);
  if (found == line.end()) {
    throw Error(Exit::kBadData, fmt::format("its field '{}' is missing", field));
  }
  if (!found->is_string()) {
    throw Error(Exit::kBadData, fmt::format("its field '{}' is not a string", field));
  }
  return found->get<std::string>();
}

/// Empty if it is absent or null.
std::string optional_text_of(const json& line, const std::string& field) {
  const auto found = line.find(field);
  return found == line.end() || found->is_null() ? "" : text_of(line, field);
}

/// An id may also be a number.
std::string id_of(const json& line, const std::string& field) {
  const auto found = line.find(field);
  if (found != line.end() && found->is_number()) {
    return found->dump();
  }
  return optional_text_of(line, field);
}

/// Whether the line is a context and a continuation, not text.
bool is_pair(const json& line, const std::string& text_field) {
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

/// Trailing spaces of the context move to the continuation: a word keeps the space before it.
void move_spaces(TextDocument& document) {
  const std::size_t kept = document.context.find_last_not_of(" \t\n\r\f\v") + 1;
  document.text.insert(0, document.context.substr(kept));
  document.context.resize(kept);
}

}  // namespace

std::vector<InputFile> list_inputs(const std::vector<std::string>& inputs) {
  std::vector<InputFile> files;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const fs::path path = inputs[i];
    const auto input = static_cast<std::int64_t>(i);
    if (fs::is_directory(path)) {
      list_folder(path, input, files);
    } else if (fs::exists(path)) {
      const TextStream readable(path);
      files.push_back(input_file(path, path.filename().string(), input));
    } else {
      throw Error(Exit::kNoInput, fmt::format("tokenize.input: there is no {}",
                                              fs::absolute(path).lexically_normal().string()));
    }
  }
  if (files.empty()) {
    throw Error(Exit::kNoInput,
                fmt::format("tokenize.input: no text files in {}", join(inputs, ", ")));
  }
  make_names_distinct(inputs, files);
  return files;
}

DocumentReader::DocumentReader(InputFile file, TextFields fields)
    : file_(std::move(file)),
      fields_(std::move(fields)),
      stream_(file_.path),
      block_(kBlockBytes) {}

bool DocumentReader::fill() {
  begin_ = 0;
  end_ = stream_.read(block_);
  return end_ > 0;
}

void DocumentReader::read_whole(std::string& text) {
  while (begin_ < end_ || fill()) {
    text.append(block_.data() + begin_, end_ - begin_);
    begin_ = end_;
  }
}

bool DocumentReader::next_line() {
  line_.clear();
  while (begin_ < end_ || fill()) {
    const char* const from = block_.data() + begin_;
    const char* const end = std::find(from, static_cast<const char*>(block_.data() + end_), '\n');
    line_.append(from, end);
    begin_ += static_cast<std::size_t>(end - from);
    if (begin_ < end_) {
      ++begin_;
      return true;
    }
  }
  return !line_.empty();
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
  while (next_line()) {
    document.place = next_;
    ++next_.line;
    next_.offset += std::ssize(line_) + 1;
    if (!trim(line_).empty()) {
      parse(document);
      return true;
    }
  }
  return false;
}

void DocumentReader::parse(TextDocument& document) const {
  const std::string where = fmt::format("{}:{}", file_.name, document.place.line + 1);
  try {
    const json line = json::parse(line_);
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
  }
  while (next_.line < place.line && next_line()) {
    ++next_.line;
    next_.offset += std::ssize(line_) + 1;
  }
}

}  // namespace moesaic::io
