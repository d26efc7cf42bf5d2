#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "config/value.h"

namespace moesaic::config {
namespace {

constexpr std::string_view kSpace = " \t\r\n\f\v";

/// What may follow a backslash in double quotes, and what it stands for.
constexpr std::array<std::pair<char, char>, 7> kEscapes = {
    {{'n', '\n'}, {'t', '\t'}, {'r', '\r'}, {'\\', '\\'}, {'"', '"'}, {'\'', '\''}, {'$', '$'}}};

std::string environment(const std::string& name, std::string_view asked) {
  const char* const value = std::getenv(name.c_str());
  if (value == nullptr) {
    throw Error(Exit::kUsage,
                fmt::format("{} cannot be expanded: the variable {} is not set", asked, name));
  }
  return value;
}

char unescaped(char name) {
  for (const auto& [known, meaning] : kEscapes) {
    if (known == name) {
      return meaning;
    }
  }
  throw Error(Exit::kUsage, fmt::format("\\{} is not known in double quotes: write \\n, \\t, \\r, "
                                        "\\\", \\', \\$, or \\\\ for a backslash",
                                        name));
}

/// The item without the spaces around it. White space alone, and line breaks, may be meant.
std::string without_space(const std::string& item) {
  const std::string_view kept = trim(item);
  std::string space = item;
  space.erase(item.find(kept), kept.size());
  if ((kept.empty() && !space.empty()) || space.find_first_of("\r\n") != std::string::npos) {
    throw Error(Exit::kUsage,
                fmt::format("white space around a value is dropped: write {}, with its quotes, to "
                            "keep it, or leave it out",
                            quote_item(item)));
  }
  return std::string(kept);
}

/// Reads the items of one value from left to right.
class ItemReader {
 public:
  explicit ItemReader(std::string_view text) : text_(text) {}

  std::vector<std::string> read() {
    std::vector<std::string> items;
    while (!at_end()) {
      const std::size_t begin = at_;
      skip_space();
      const char first = at_end() ? '\0' : text_[at_];
      if (first == '\'' || first == '"') {
        items.push_back(quoted(first));
      } else if (std::optional<std::string> item = plain(begin)) {
        items.push_back(std::move(*item));
      }
      if (!at_end()) {
        ++at_;  // the comma
      }
    }
    return items;
  }

 private:
  bool at_end() const { return at_ >= text_.size(); }

  void skip_space() { at_ = std::min(text_.find_first_not_of(kSpace, at_), text_.size()); }

  /// `${NAME}` at the cursor, or one character as it stands.
  std::string piece() {
    if (text_.substr(at_).starts_with("${")) {
      const std::size_t end = text_.find('}', at_);
      if (end != std::string_view::npos) {
        const std::string_view asked = text_.substr(at_, end + 1 - at_);
        at_ = end + 1;
        return environment(std::string(asked.substr(2, asked.size() - 3)), asked);
      }
    }
    return {text_[at_++]};
  }

  /// The item that begins, with its space, at `begin`; the cursor is behind that space.
  std::optional<std::string> plain(std::size_t begin) {
    const std::size_t end = std::min(text_.find(',', at_), text_.size());
    std::string item(text_.substr(begin, at_ - begin));
    const std::string_view raw = trim(text_.substr(at_, end - at_));
    if (raw == "~" || raw.starts_with("~/")) {
      item += environment("HOME", "~");
      ++at_;
    }
    while (at_ < end) {
      item += piece();
    }
    return end == begin ? std::nullopt : std::optional(without_space(item));
  }

  std::string quoted(char quote) {
    std::string item;
    for (++at_; !at_end() && text_[at_] != quote;) {
      if (quote == '\'') {
        item += text_[at_++];
      } else if (text_[at_] == '\\' && at_ + 1 < text_.size()) {
        item += unescaped(text_[at_ + 1]);
        at_ += 2;
      } else {
        item += piece();
      }
    }
    if (at_end()) {
      throw Error(Exit::kUsage, fmt::format("the quote {} is not closed in: {}", quote, text_));
    }
    ++at_;
    skip_space();
    if (!at_end() && text_[at_] != ',') {
      throw Error(Exit::kUsage,
                  fmt::format("a comma is missing after a closing {} in: {}", quote, text_));
    }
    return item;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

std::vector<std::string> parse_items(std::string_view text) { return ItemReader(text).read(); }

std::string quote_item(const std::string& item) {
  const bool one_line = item.find_first_of("\n\r\t") == std::string::npos;
  const bool plain = one_line && !item.empty() && trim(item) == item && item[0] != '~' &&
                     item.find_first_of(",'\"#;$\\") == std::string::npos;
  if (plain) {
    return item;
  }
  if (one_line && item.find('\'') == std::string::npos) {
    return fmt::format("'{}'", item);
  }
  std::string text;
  for (const char c : item) {
    const auto* const escape = std::find_if(kEscapes.begin(), kEscapes.end(),
                                            [&](const auto& each) { return each.second == c; });
    text += escape == kEscapes.end() || c == '\'' ? std::string(1, c)
                                                  : std::string{'\\', escape->first};
  }
  return fmt::format("\"{}\"", text);
}

}  // namespace moesaic::config
