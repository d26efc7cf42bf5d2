#include "text/huggingface/normalize.h"

#include <algorithm>

namespace moesaic::text {
namespace {

std::string replaced(std::string_view text, const NormalizeStep& step) {
  std::string result;
  step.regex->each(text, [&](Span span, bool is_match) {
    result.append(is_match ? std::string_view(step.text) : text.substr(span.begin, span.size()));
  });
  return result;
}

}  // namespace

void normalize(const std::vector<NormalizeStep>& steps, std::string_view& text,
               std::string& storage) {
  using Kind = NormalizeStep::Kind;
  for (const NormalizeStep& step : steps) {
    std::string changed;
    switch (step.kind) {
      case Kind::kForm: {
        const bool same = step.form == NormalForm::kNfc && is_plain(text);
        if (same) {
          continue;
        }
        changed = normal_form(text, step.form);
        break;
      }
      case Kind::kLowercase:
        changed = lowercase(text);
        break;
      case Kind::kStripAccents:
        changed = without_marks(text);
        break;
      case Kind::kStrip:
        text.remove_prefix(step.left ? leading_space(text) : 0);
        text.remove_suffix(step.right ? trailing_space(text) : 0);
        continue;
      case Kind::kPrepend:
        if (text.empty()) {
          continue;
        }
        changed = step.text + std::string(text);
        break;
      case Kind::kReplace:
        changed = replaced(text, step);
        break;
    }
    storage = std::move(changed);
    text = storage;
  }
}

}  // namespace moesaic::text
