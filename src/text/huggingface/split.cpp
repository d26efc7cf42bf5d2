#include "text/huggingface/split.h"

namespace moesaic::text {

std::string marked_text(const TextPart& part, const SplitStep& step) {
  const bool has_prefix = part.text.starts_with(step.mark) || part.text.starts_with(' ');
  const bool wants_prefix =
      step.prefix == Prefix::kAlways || (step.prefix == Prefix::kFirst && part.first);
  const bool marks = step.mark != " " && part.text.find(' ') != std::string_view::npos;
  std::string marked;
  if (wants_prefix && !has_prefix) {
    marked = step.mark;
  } else if (!marks) {
    return marked;
  }
  for (const char byte : part.text) {
    if (byte == ' ') {
      marked += step.mark;
    } else {
      marked += byte;
    }
  }
  return marked;
}

}  // namespace moesaic::text
