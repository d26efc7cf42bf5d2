// Oniguruma (Ruby syntax) -> PCRE2. Where both write the same but mean another thing, the meaning
// is spelt out: \s is White_Space, \w has marks and of the other numbers only those of Latin-1,
// \p{Han} is the script, {1,3}+ repeats instead of being possessive, . and $ know the line feed
// alone.
#include <fmt/format.h>

#include <vector>

#include "base/error.h"
#include "base/utf8.h"
#include "text/huggingface/regex.h"

namespace moesaic::text {
namespace {

constexpr std::string_view kSpaces =
    R"(\x09-\x0d\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kNoSpaces =
    R"(\x00-\x08\x0e-\x1f\x21-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
    R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
constexpr std::string_view kWords =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169})"
    R"(\x{1f170}-\x{1f189}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";
constexpr std::string_view kSameEscapes = "dDrntfa";  // mean the same in both
constexpr std::string_view kPositions = "AzZG";       // the same, outside of a class
constexpr std::string_view kHexDigits = "0123456789abcdefABCDEF";
constexpr std::size_t kLongestPattern = 32'768;

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& name) : in_(pattern), name_(name) {}

  std::string run() {
    if (in_.size() > kLongestPattern || in_.find('\0') != std::string_view::npos) {
      fail("it is too long, or has a NUL");
    }
    while (at_ < in_.size()) {
      in_class_ ? class_item() : item();
    }
    return out_;
  }

 private:
  [[noreturn]] void fail(std::string_view what) const {
    throw Error(Exit::kBadData, fmt::format("{}: the pattern '{}' cannot be used: {}", name_,
                                            in_.substr(0, 200), what));
  }
  bool next_is(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  void copy(std::size_t bytes) {
    out_.append(in_.substr(at_, bytes));
    at_ += bytes;
  }

  void item() {
    switch (in_[at_]) {
      case '(':
        groups_.push_back(out_.size());
        open_group();
        return;
      case ')':
        if (groups_.empty()) {
          fail("a ')' is too much");
        }
        atom_ = groups_.back();
        groups_.pop_back();
        copy(1);
        return;
      case '[':
        atom_ = out_.size();
        in_class_ = true;
        copy(next_is("[^") ? 2 : 1);
        if (next_is("]")) {
          fail("a class begins with ']': write \\]");
        }
        return;
      case '{':
        interval();
        return;
      case '*':
      case '+':
      case '?':
        copy(1);
        return;
      case '\\':
        atom_ = out_.size();
        escape();
        return;
      default:
        atom_ = out_.size();
        copy(utf8_length(in_.substr(at_)));
    }
  }

  void open_group() {
    for (const std::string_view known :
         {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:"}) {
      if (next_is(known)) {
        copy(known.size());
        return;
      }
    }
    if (next_is("(?i)") && at_ == 0) {
      groups_.pop_back();
      copy(4);
    } else if (next_is("(?") || next_is("(*")) {
      fail(fmt::format("the group '{}...' is not supported", in_.substr(at_, 4)));
    } else {
      copy(1);
    }
  }

  void class_item() {
    if (next_is("[") || next_is("&&")) {
      fail("sets of classes ([a[b]], &&, [:name:]) are not supported");
    }
    if (next_is("]")) {
      in_class_ = false;
      copy(1);
    } else if (next_is("\\")) {
      escape();
    } else {
      copy(utf8_length(in_.substr(at_)));
    }
  }

  // {n}, {n,}, {n,m} or {,m}; anything else is a brace.
  void interval() {
    const std::size_t end = in_.find('}', at_);
    const std::string_view body =
        end == std::string_view::npos ? "" : in_.substr(at_ + 1, end - at_ - 1);
    if (body.empty() || body == "," || body.size() > 11 ||
        body.find_first_not_of("0123456789,") != std::string_view::npos ||
        body.find(',') != body.rfind(',')) {
      atom_ = out_.size();
      out_ += "\\{";
      ++at_;
      return;
    }
    out_ += fmt::format("{{{}{}}}", body[0] == ',' ? "0" : "", body);
    at_ = end + 1;
    if (next_is("+")) {
      out_.insert(atom_, "(?:");
      out_ += ")";
    }
  }

  void set_of(std::string_view items, bool negated) {
    if (in_class_ && negated) {
      fail("\\W in a class is not supported");
    }
    out_ += in_class_ ? std::string(items) : fmt::format("[{}{}]", negated ? "^" : "", items);
  }

  void escape() {
    const char kind = at_ + 1 < in_.size() ? in_[at_ + 1] : '\0';
    const bool same = kSameEscapes.find(kind) != std::string_view::npos ||
                      (!in_class_ && kPositions.find(kind) != std::string_view::npos);
    const bool letter = (kind >= 'a' && kind <= 'z') || (kind >= 'A' && kind <= 'Z');
    const bool digit = kind >= '0' && kind <= '9';
    if (kind == 'p' || kind == 'P') {
      property();
    } else if (kind == 'x' || kind == 'u') {
      code_point(kind);
    } else if (kind == 's' || kind == 'S') {
      at_ += 2;
      set_of(kind == 's' ? kSpaces : kNoSpaces, false);
    } else if (kind == 'w' || kind == 'W') {
      at_ += 2;
      set_of(kWords, kind == 'W');
    } else if (kind == 'v') {
      at_ += 2;
      out_ += "\\x0b";
    } else if (same || (!letter && !digit && static_cast<unsigned char>(kind) >= 0x20 &&
                        static_cast<unsigned char>(kind) < 0x80)) {
      copy(2);
    } else {
      fail(fmt::format("'{}' is not supported", in_.substr(at_, 2)));
    }
  }

  void property() {
    const std::size_t end = in_.find('}', at_);
    if (!next_is("\\p{") && !next_is("\\P{")) {
      fail("a property needs braces: \\p{L}");
    }
    if (end == std::string_view::npos) {
      fail("a '}' is missing");
    }
    std::string_view name = in_.substr(at_ + 3, end - at_ - 3);
    const bool inverted = name.starts_with('^');
    name.remove_prefix(inverted ? 1 : 0);
    // One or two letters are a category, longer names a script.
    out_ += fmt::format("\\{}{{{}{}{}}}", in_[at_ + 1], inverted ? "^" : "",
                        name.size() > 2 ? "sc:" : "", name);
    at_ = end + 1;
  }

  void code_point(char kind) {
    std::string_view digits = in_.substr(at_ + 2);
    const bool braces = kind == 'x' && digits.starts_with('{');
    if (braces) {
      digits = digits.substr(1, digits.find('}') - 1);
      at_ += 4 + digits.size();
    } else {
      digits = digits.substr(0, kind == 'x' ? 2 : 4);
      at_ += 2 + digits.size();
    }
    const bool hex = !digits.empty() && digits.size() <= 6 && at_ <= in_.size() &&
                     digits.find_first_not_of(kHexDigits) == std::string_view::npos;
    if (!hex || (kind == 'u' && digits.size() != 4) ||
        (kind == 'x' && !braces && digits[0] > '7')) {
      fail("\\xHH (below 80), \\x{H...} and \\uHHHH are supported");
    }
    out_ += fmt::format("\\x{{{}}}", digits);
  }

  std::string_view in_;
  const std::string& name_;
  std::string out_;
  std::size_t at_ = 0;               // next of in_
  std::size_t atom_ = 0;             // where in out_ the last thing that can be repeated begins
  std::vector<std::size_t> groups_;  // where open groups begin in out_
  bool in_class_ = false;
};

}  // namespace

std::string pcre2_pattern(std::string_view pattern, const std::string& name) {
  return Translator(pattern, name).run();
}

}  // namespace moesaic::text
