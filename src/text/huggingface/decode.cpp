#include "text/huggingface/decode.h"

#include <string_view>

#include "text/token_bytes.h"

namespace moesaic::text {
namespace {

std::string joined(const std::vector<std::string>& tokens, std::string_view between) {
  std::string text;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    text.append(i == 0 ? "" : between).append(tokens[i]);
  }
  return text;
}

std::string replaced(std::string_view text, std::string_view find, std::string_view with) {
  std::string result;
  std::size_t at = 0;
  for (std::size_t found = text.find(find); found != std::string_view::npos;
       found = text.find(find, at)) {
    result.append(text.substr(at, found - at)).append(with);
    at = found + find.size();
  }
  return result.append(text.substr(at));
}

std::string stripped(std::string_view text, const DecodeStep& step) {
  for (std::size_t i = 0; i < step.left && text.starts_with(step.find); ++i) {
    text.remove_prefix(step.find.size());
  }
  for (std::size_t i = 0; i < step.right && text.ends_with(step.find); ++i) {
    text.remove_suffix(step.find.size());
  }
  return std::string(text);
}

std::vector<std::string> applied(std::vector<std::string> tokens, const DecodeStep& step) {
  using Kind = DecodeStep::Kind;
  if (step.kind == Kind::kFuse) {
    return {joined(tokens, "")};
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    std::string& token = tokens[i];
    switch (step.kind) {
      case Kind::kByteLevel:
        token = bytes_of_letters(token).value_or(token);
        break;
      case Kind::kByteFallback:
        if (const auto byte = byte_of_token(token)) {
          token.assign(1, static_cast<char>(*byte));
        }
        break;
      case Kind::kReplace:
        token = replaced(token, step.find, step.replacement);
        break;
      case Kind::kStrip:
        token = stripped(token, step);
        break;
      case Kind::kMetaspace:
        token = replaced(token, step.find, i == 0 && step.drops_first ? "" : " ");
        break;
      case Kind::kFuse:
        break;
    }
  }
  return step.kind == Kind::kByteLevel ? std::vector<std::string>{joined(tokens, "")} : tokens;
}

}  // namespace

std::string decoded(std::vector<std::string> tokens, const std::vector<DecodeStep>& steps) {
  for (const DecodeStep& step : steps) {
    tokens = applied(std::move(tokens), step);
  }
  return joined(tokens, steps.empty() ? " " : "");
}

}  // namespace moesaic::text
