#include "config/ini.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/io_error.h"
#include "base/text.h"
#include "config/keys.h"

namespace moesaic::config {
namespace {

/// The line up to a `#` or `;` at its start or after white space, outside of quotes. A quote opens
/// only where an item begins, so that an apostrophe inside a word is harmless.
std::string_view without_comment(std::string_view line) {
  char quote = '\0';
  char before = '=';  // the last character that is no white space
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    const bool after_space = i == 0 || line[i - 1] == ' ' || line[i - 1] == '\t';
    if (quote != '\0') {
      i += quote == '"' && c == '\\' ? 1 : 0;
      quote = c == quote ? '\0' : quote;
    } else if ((c == '#' || c == ';') && after_space) {
      return line.substr(0, i);
    } else if ((c == '"' || c == '\'') && (before == '=' || before == ',')) {
      quote = c;
    }
    if (c != ' ' && c != '\t') {
      before = c;
    }
  }
  return line;
}

/// Reads the lines of one file; knows the section that it is in.
class IniReader {
 public:
  IniReader(std::string file, std::vector<std::string>& problems)
      : file_(std::move(file)), problems_(problems) {}

  void line(std::string_view text, int number) {
    place_ = fmt::format("{}:{}", file_, number);
    text = trim(without_comment(text));
    if (text.empty()) {
      return;
    }
    const std::size_t equals = text.find('=');
    if (text.front() == '[' && text.back() == ']') {
      header(std::string(trim(text.substr(1, text.size() - 2))));
    } else if (equals == std::string_view::npos || equals == 0) {
      problems_.push_back(
          fmt::format("{}: \"{}\" is neither [section] nor key = value", place_, text));
    } else {
      setting(std::string(trim(text.substr(0, equals))), trim(text.substr(equals + 1)));
    }
  }

  std::vector<Setting> settings() const { return settings_; }

 private:
  void header(const std::string& name) {
    const std::vector<std::string> known = sections();
    skip_ = std::find(known.begin(), known.end(), name) == known.end();
    section_ = name;
    if (skip_) {
      const std::string near = nearest(name, known);
      problems_.push_back(fmt::format(
          "{}: unknown section [{}]{}", place_, name,
          near.empty() ? "; known are " + join(known, ", ") : "; did you mean [" + near + "]?"));
    }
  }

  void setting(const std::string& key, std::string_view value) {
    const bool full = key.find('.') != std::string::npos || section_.empty();
    if (full || !skip_) {
      settings_.push_back({full ? key : section_ + "." + key, std::string(value), place_});
    }
  }

  std::string file_, section_, place_;
  bool skip_ = false;
  std::vector<std::string>& problems_;
  std::vector<Setting> settings_;
};

}  // namespace

std::vector<Setting> read_ini(const std::string& file, std::vector<std::string>& problems) {
  errno = 0;
  std::ifstream file_stream(file, std::ios::binary);
  std::stringstream stream;
  if (file_stream.peek() != std::ifstream::traits_type::eof()) {
    stream << file_stream.rdbuf();
  }
  const int error = errno;
  if (!file_stream.is_open() || file_stream.bad() || !stream) {
    const std::string problem = fmt::format(
        "--config {}: cannot be read: {} ({})", file, std::filesystem::absolute(file).string(),
        error == EISDIR ? "it is a folder" : std::strerror(error));
    if (storage_failed(error)) {
      throw Error(Exit::kIoError, problem);
    }
    problems.push_back(problem);
    return {};
  }
  IniReader reader(file, problems);
  int number = 0;
  for (std::string line; std::getline(stream, line);) {
    ++number;
    constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
    if (number == 1 && line.starts_with(kByteOrderMark)) {
      line.erase(0, kByteOrderMark.size());
    }
    reader.line(line, number);
  }
  return reader.settings();
}

}  // namespace moesaic::config
