#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace moesaic::infer {

/// The text of a continuation as it grows, and where it ends: before the first stop string, which
/// may lie over several tokens.
class StopText {
 public:
  /// Both must outlive it. A text that follows nothing begins as the tokenizer begins texts.
  StopText(const text::Tokenizer& tokenizer, const std::vector<std::string>& stops,
           std::span<const std::int32_t> prompt);

  /// True: a stop string is complete. Text before it alone remains.
  bool add(std::int32_t token);
  const std::string& text() const { return text_; }

 private:
  const text::Tokenizer* tokenizer_;
  const std::vector<std::string>* stops_;
  bool begins_;  // nothing comes before what is added next
  std::string text_;
};

}  // namespace moesaic::infer
