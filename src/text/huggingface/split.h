#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/huggingface/regex.h"

namespace moesaic::text {

enum class Prefix { kNever, kAlways, kFirst };  // kFirst: where the document begins
enum class Behaviour { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

/// One step of cutting text into words: marks spaces and puts a prefix before the text, then
/// splits it at what the regex finds.
struct SplitStep {
  std::string mark = " ";  // for a space, and the prefix
  Prefix prefix = Prefix::kNever;
  std::optional<Regex> regex;  // none: no split
  Behaviour behaviour = Behaviour::kIsolated;
  bool invert = false;  // matches and what is between them change places
};

/// A part of a document, valid UTF-8.
struct TextPart {
  std::string_view text;
  bool first = false;  // the document begins with it
};

/// The part with marks and prefix; empty where that changes nothing.
std::string marked_text(const TextPart& part, const SplitStep& step);

/// Gives spans to `emit` as `behaviour` joins them: empty ones and removed ones never.
template <class Emit>
class Joiner {
 public:
  Joiner(Behaviour behaviour, Emit emit) : behaviour_(behaviour), emit_(std::move(emit)) {}

  void add(Span span, bool is_match) {
    switch (behaviour_) {
      case Behaviour::kIsolated:
        pending_ = span;
        flush();
        return;
      case Behaviour::kRemoved:
        if (!is_match) {
          pending_ = span;
          flush();
        }
        return;
      case Behaviour::kMergedWithPrevious:
        take(span, is_match && !was_match_);
        break;
      case Behaviour::kMergedWithNext:
        take(span, was_match_ && !is_match);
        break;
      case Behaviour::kContiguous:
        take(span, is_match == was_match_);
        break;
    }
    was_match_ = is_match;
  }
  void flush() {
    if (pending_ && pending_->size() > 0) {
      emit_(*pending_);
    }
    pending_.reset();
  }

 private:
  void take(Span span, bool joins) {
    if (joins && pending_) {
      pending_->end = span.end;
      return;
    }
    flush();
    pending_ = span;
  }
  Behaviour behaviour_;
  Emit emit_;
  std::optional<Span> pending_;
  bool was_match_ = false;
};

/// Gives every word of the part to `word(std::string_view)`, as the steps from `step` on cut it.
template <class Word>
void split(TextPart part, const std::vector<SplitStep>& steps, std::size_t step, Word& word) {
  if (part.text.empty()) {
    return;
  }
  if (step == steps.size()) {
    word(part.text);
    return;
  }
  const SplitStep& now = steps[step];
  const std::string marked = marked_text(part, now);
  if (!marked.empty()) {
    part.text = marked;
  }
  if (!now.regex) {
    split(part, steps, step + 1, word);
    return;
  }
  Joiner joiner(now.behaviour, [&](Span span) {
    split({part.text.substr(span.begin, span.size()), part.first && span.begin == 0}, steps,
          step + 1, word);
  });
  now.regex->each(part.text,
                  [&](Span span, bool is_match) { joiner.add(span, is_match != now.invert); });
  joiner.flush();
}

}  // namespace moesaic::text
