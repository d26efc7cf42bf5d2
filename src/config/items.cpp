#include <fmt/format.h>

#include <cstdlib>
#include <optional>

#include "base/error.h"
#include "base/text.h"
#include "config/value.h"

namespace moesaic::config {
namespace {

std::string environment(const std::string& name, std::string_view asked) {
  const char* const value = std::getenv(name.c_str());
  if (value == nullptr) {
    throw Error(Exit::kUsage,
                fmt::format("{} cannot be expanded: the variable {} is not set", asked, name));
  }
  return value;
}

/// Reads the items of one value from left to right.
class ItemReader {
 public:
  explicit ItemReader(std::string_view text) : text_(text) {}

  std::vector<std::string> read() {
    std::vector<std::string> items;
    while (true) {
      skip_space();
      if (at_end()) {
        return items;
      }
      const char first = text_[at_];
      if (first == '\'' || first == '"') {
        items.push_back(quoted(first));
      } else if (std::optional<std::string> item = plain()) {
        items.push_back(std::move(*item));
      }
      if (!at_end()) {
        ++at_;  // the comma
      }
    }
  }

 private:
  bool at_end() const { return at_ >= text_.size(); }

  void skip_space() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size()); }

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

  std::optional<std::string> plain() {
    const std::size_t end = std::min(text_.find(',', at_), text_.size());
    std::string item;
    const std::string_view raw = trim(text_.substr(at_, end - at_));
    if (raw == "~" || raw.starts_with("~/")) {
      item = environment("HOME", "~");
      ++at_;
    }
    while (at_ < end) {
      item += piece();
    }
    return raw.empty() ? std::nullopt : std::optional(std::string(trim(item)));
  }

  std::string quoted(char quote) {
    std::string item;
    for (++at_; !at_end() && text_[at_] != quote;) {
      if (quote == '\'') {
        item += text_[at_++];
      } else if (text_[at_] == '\\' && at_ + 1 < text_.size()) {
        item += text_[at_ + 1];
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
  const bool plain = !item.empty() && trim(item) == item && item[0] != '~' &&
                     item.find_first_of(",'\"#;$\\") == std::string::npos;
  if (plain) {
    return item;
  }
  if (item.find('\'') == std::string::npos) {
    return fmt::format("'{}'", item);
  }
  std::string text;
  for (const char c : item) {
    if (c == '"' || c == '\\' || c == '$') {
      text += '\\';
    }
    text += c;
  }
  return fmt::format("\"{}\"", text);
}

}  // namespace moesaic::config
