#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/huggingface/regex.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <array>

#include "base/error.h"

namespace moesaic::text {
namespace {

constexpr std::uint32_t kMostSteps = 50'000'000;  // of one search
constexpr std::uint32_t kMostHeap = 256 * 1024;   // KiB that a search may take

template <auto kFree>
struct Freed {
  template <class T>
  void operator()(T* owned) const {
    kFree(owned);
  }
};
using CodePointer = std::unique_ptr<pcre2_code, Freed<pcre2_code_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freed<pcre2_match_context_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Freed<pcre2_compile_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freed<pcre2_match_data_free>>;

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

pcre2_match_data* scratch() {
  thread_local const MatchData data(pcre2_match_data_create(1, nullptr));
  return data.get();
}

}  // namespace

struct Regex::Code {
  CodePointer code;
  MatchContext context;
  std::string name;
};

Regex Regex::pattern(std::string_view pattern, const std::string& name) {
  const std::string translated = pcre2_pattern(pattern, name);
  const CompileContext context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  std::size_t at = 0;
  auto code = std::make_shared<Code>();
  code->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &at,
                                 context.get()));
  if (code->code == nullptr) {
    throw Error(Exit::kBadData, fmt::format("{}: the pattern '{}' is not understood: {} (at {} of "
                                            "'{}')",
                                            name, pattern, message_of(error), at, translated));
  }
  pcre2_jit_compile(code->code.get(), PCRE2_JIT_COMPLETE);  // without it the search is only slower
  code->context.reset(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(code->context.get(), kMostSteps);
  pcre2_set_heap_limit(code->context.get(), kMostHeap);
  code->name = fmt::format("{}: the pattern '{}'", name, pattern);
  Regex regex;
  regex.code_ = std::move(code);
  return regex;
}

Regex Regex::literal(std::string text) {
  Regex regex;
  regex.literal_ = std::move(text);
  return regex;
}

bool Regex::find(std::string_view text, std::size_t from, Span& match) const {
  if (code_ == nullptr) {
    match.begin = text.find(literal_, from);
    match.end = match.begin + literal_.size();
    return match.begin != std::string_view::npos;
  }
  const auto search = [&](std::uint32_t options) {
    return pcre2_match(code_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                       from, options | PCRE2_NO_UTF_CHECK, scratch(), code_->context.get());
  };
  int result = search(0);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) {
    result = search(PCRE2_NO_JIT);
  }
  if (result == PCRE2_ERROR_NOMATCH) {
    return false;
  }
  if (result < 0) {
    throw Error(Exit::kBadData, fmt::format("{} cannot be searched for in a text of {} bytes: {}",
                                            code_->name, text.size(), message_of(result)));
  }
  const PCRE2_SIZE* found = pcre2_get_ovector_pointer(scratch());
  match = {found[0], found[1]};
  if (match.begin > match.end) {  // \K in a look-around could do that; the translation refuses it
    match.begin = match.end;
  }
  return true;
}

}  // namespace moesaic::text
