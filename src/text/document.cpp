#include "text/document.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/utf8.h"
#include "files/white_space.h"

namespace moesaic::text {
namespace {

template <class... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> text, Args&&... args) {
  throw Error(Exit::kBadData, fmt::format(text, std::forward<Args>(args)...));
}

/// A field that is text and must be there.
std::string text_of(const Json& line, const std::string& field) {
  const Json* const found = line.find(field);
  if (found == nullptr) {
    refuse("its field '{}' is missing", field);
  }
  if (!found->is_string()) {
    refuse("its field '{}' is not a string", field);
  }
  return found->get<std::string>();
}

/// Empty if it is absent or null.
std::string optional_text_of(const Json& line, const std::string& field) {
  const Json* const found = line.find(field);
  return found == nullptr || found->is_null() ? "" : text_of(line, field);
}

/// An id may also be a number.
std::string id_of(const Json& line, const std::string& field) {
  const Json* const found = line.find(field);
  if (found != nullptr && found->is_number()) {
    return found->dump();
  }
  return optional_text_of(line, field);
}

/// Strings and integers never name one group: "1" is not 1.
std::string group_of(const Json& line) {
  const Json* const found = line.find("group");
  if (found == nullptr || found->is_null()) {
    return "";
  }
  if (!found->is_string() && !found->is_integer()) {
    refuse("its field 'group' is neither a string nor an integer");
  }
  return found->dump(-1, Json::Bytes::kReplaced);
}

float weight_of(const Json& line) {
  const Json* const found = line.find("weight");
  if (found == nullptr) {
    return 1.0F;
  }
  const auto weight = found->is_number() ? static_cast<float>(found->get<double>()) : 0.0F;
  if (!std::isfinite(weight) || weight <= 0.0F) {
    refuse("its field 'weight' is {}, not a number above 0", found->dump());
  }
  return weight;
}

/// What a line without a text has instead, and what makes text of it.
std::string hint_of(const Json& line) {
  for (const char* const field : {"messages", "conversations", "instruction", "completion"}) {
    if (line.contains(field)) {
      return fmt::format(
          "it has '{}': make text and spans of conversations with "
          "analysis/render_chat.py",
          field);
    }
  }
  return "";
}

enum class Form { kText, kPair, kIds, kPrompt };

Form form_of(const Json& line, const std::string& text_field) {
  const bool text = line.contains(text_field);
  const bool continuation = text_field != "continuation" && line.contains("continuation");
  const bool ids = text_field != "input_ids" && line.contains("input_ids");
  if (text && continuation && text_field != "context") {
    refuse("it has both '{}' and 'continuation': a line is either text or context and continuation",
           text_field);
  }
  if (ids && (text || continuation)) {
    refuse("it has both '{}' and 'input_ids': a line is either text or token ids",
           text ? text_field : "continuation");
  }
  if (ids) {
    return Form::kIds;
  }
  if (text || continuation) {
    return text ? Form::kText : Form::kPair;
  }
  if (const std::string hint = hint_of(line); !hint.empty()) {
    throw Error(Exit::kBadData, hint);
  }
  if (line.contains("chosen") || line.contains("rejected")) {
    refuse(
        "it has two answers, 'chosen' and 'rejected': write each as a line of its own, with text, "
        "spans and the same group");
  }
  if (!line.contains("prompt")) {
    refuse("neither '{}' nor 'context' and 'continuation' are there (tokenize.text_field)",
           text_field);
  }
  return Form::kPrompt;
}

/// White space at the end of the context moves to the continuation, as in lm-evaluation-harness: a
/// word keeps the space before it.
void move_spaces(TextDocument& document) {
  const std::size_t kept = files::size_without_space(document.context);
  document.text.insert(0, document.context.substr(kept));
  document.context.resize(kept);
}

/// Ranges of characters (Unicode code points) become ranges of bytes.
std::vector<TextRange> bytes_of(const std::vector<TextRange>& spans, const std::string& text) {
  if (valid_prefix(text) < text.size()) {
    refuse("its text is not UTF-8, so that its spans count no characters");
  }
  std::vector<TextRange> bytes;
  std::int64_t character = 0;
  std::size_t at = 0;
  const auto byte_of = [&](std::int64_t wanted) {
    for (; character < wanted && at < text.size(); ++character) {
      at += utf8_length(std::string_view(text).substr(at));
    }
    if (character < wanted) {
      refuse("one of its spans ends at {}, but its text has {} characters", wanted, character);
    }
    return static_cast<std::int64_t>(at);
  };
  for (const TextRange& span : spans) {
    const std::int64_t begin = byte_of(span.begin), end = byte_of(span.end);
    if (begin < end) {
      bytes.push_back({begin, end});
    }
  }
  return bytes;
}

std::vector<TextRange> spans_of(const Json& list, const std::string& text) {
  constexpr std::int64_t kMost = std::int64_t{1} << 40;
  if (!list.is_array()) {
    refuse("its field 'spans' is not a list of [begin, end]");
  }
  std::vector<TextRange> spans;
  for (const Json& each : list) {
    if (!each.is_array() || each.size() != 2 || !each[0].is_integer_in(0, kMost) ||
        !each[1].is_integer_in(0, kMost)) {
      refuse("its field 'spans' has {}, not [begin, end] of two integers from 0",
             each.dump(-1, Json::Bytes::kReplaced));
    }
    const TextRange span{each[0].get<std::int64_t>(), each[1].get<std::int64_t>()};
    if (span.end < span.begin || (!spans.empty() && span.begin < spans.back().end)) {
      refuse("its span [{}, {}) {}: spans ascend and do not overlap", span.begin, span.end,
             span.end < span.begin ? "ends before it begins"
                                   : fmt::format("follows one that ends at {}", spans.back().end));
    }
    spans.push_back(span);
  }
  return bytes_of(spans, text);
}

const Json& list_of(const Json& line, const char* field) {
  const Json* const found = line.find(field);
  if (found == nullptr || !found->is_array()) {
    refuse("its field '{}' is {}: a document of ids has 'input_ids' and 'labels'", field,
           found == nullptr ? "missing" : "not a list");
  }
  return *found;
}

/// Ids and labels as Hugging Face has them: a label is the id of its own position, or negative.
void parse_ids(const Json& line, TextDocument& document) {
  constexpr std::int64_t kMost = 0x7FFFFFFF;
  const Json &ids = list_of(line, "input_ids"), &labels = list_of(line, "labels");
  if (ids.size() != labels.size()) {
    refuse("it has {} input_ids, but {} labels", ids.size(), labels.size());
  }
  document.ids.emplace();
  document.spans.emplace();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (!ids[i].is_integer_in(0, kMost) || !labels[i].is_integer_in(-kMost, kMost)) {
      refuse("at position {} its id is {} and its label {}: integers, the id from 0", i,
             ids[i].dump(-1, Json::Bytes::kReplaced), labels[i].dump(-1, Json::Bytes::kReplaced));
    }
    const auto id = ids[i].get<std::int32_t>(), label = labels[i].get<std::int32_t>();
    document.ids->push_back(id);
    if (label < 0) {
      continue;
    }
    if (label != id) {
      refuse(
          "at position {} its label is {}, but its id {}: labels are the ids themselves, not "
          "shifted, and -100 where nothing is predicted",
          i, label, id);
    }
    const auto at = static_cast<std::int64_t>(i);
    std::vector<TextRange>& spans = *document.spans;
    if (!spans.empty() && spans.back().end == at) {
      ++spans.back().end;
    } else {
      spans.push_back({at, at + 1});
    }
  }
}

}  // namespace

bool overlaps(std::span<const TextRange> ranges, const TextRange& range) {
  const auto after =
      std::upper_bound(ranges.begin(), ranges.end(), range.begin,
                       [](std::int64_t begin, const TextRange& each) { return begin < each.end; });
  return after != ranges.end() && after->begin < range.end;
}

void parse_document(const Json& line, const TextFields& fields, TextDocument& document) {
  if (!line.is_object()) {
    refuse("the line is not a JSON object");
  }
  const Form form = form_of(line, fields.text);
  const Json* const spans = line.find("spans");
  const bool names_spans = spans != nullptr && !spans->is_null();
  if (names_spans && form != Form::kText) {
    refuse("it has 'spans', which belong to a '{}' alone", fields.text);
  }
  switch (form) {
    case Form::kText:
      document.text = text_of(line, fields.text);
      if (names_spans) {
        document.spans = spans_of(*spans, document.text);
      }
      break;
    case Form::kPair:
      document.pair = true;
      document.text = text_of(line, "continuation");
      document.context = text_of(line, "context");
      move_spaces(document);
      break;
    case Form::kIds:
      parse_ids(line, document);
      break;
    case Form::kPrompt:
      document.prompt = true;
      document.text = text_of(line, "prompt");
      document.spans.emplace();
      break;
  }
  document.id = id_of(line, fields.id);
  document.task = optional_text_of(line, fields.task);
  document.group = group_of(line);
  document.weight = weight_of(line);
}

}  // namespace moesaic::text
