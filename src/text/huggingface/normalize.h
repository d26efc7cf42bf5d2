#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/huggingface/regex.h"
#include "text/huggingface/unicode.h"

namespace moesaic::text {

/// One change of a text before it is cut into words.
struct NormalizeStep {
  enum class Kind { kForm, kLowercase, kStripAccents, kStrip, kPrepend, kReplace };
  Kind kind = Kind::kForm;
  NormalForm form = NormalForm::kNfc;
  bool left = false, right = false;  // kStrip: which ends lose their white space
  std::string text;                  // what kPrepend and kReplace put in
  std::optional<Regex> regex;        // what kReplace looks for
};

/// Applies the steps to valid UTF-8. `text` then shows the result, which may lie in `storage`.
void normalize(const std::vector<NormalizeStep>& steps, std::string_view& text,
               std::string& storage);

}  // namespace moesaic::text
