// Normaliser, pre-tokenizer and decoder of a tokenizer.json.
#include "base/utf8.h"
#include "text/huggingface/fields.h"
#include "text/huggingface/tokenizer_json.h"

namespace moesaic::text {
namespace {

constexpr int kMostNested = 8;  // Sequences in Sequences
constexpr std::int64_t kMostStripped = 1'000'000;

// How GPT-2 cuts text into words; what ByteLevel does where use_regex is on.
constexpr std::string_view kGpt2Words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// The characters of is_word (unicode.h), for the inside of a class.
constexpr std::string_view kWordCharacters =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149})"
    R"(\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";

/// Calls step(part, type) for a section and for all that its Sequences hold (under `list`).
template <class Step>
void each_step(const JsonPart& part, const char* list, int depth, Step&& step) {
  if (part.value.is_null()) {
    return;
  }
  const std::string type = part.text("type");
  if (type != "Sequence") {
    step(part, type);
    return;
  }
  const Json& steps = part.member(list);
  if (!steps.is_array() || depth == kMostNested) {
    part.fail(fmt::format("'{}' is no list, or nested too deeply", list));
  }
  for (const Json& one : steps) {
    if (one.is_null()) {
      part.fail(fmt::format("'{}' has a null", list));
    }
    each_step(part.at(one), list, depth + 1, step);
  }
}

JsonPart section_of(const Json& file, const char* key, const std::string& name) {
  static const Json nothing;
  return {file.contains(key) ? file[key] : nothing, name, key};
}

std::string nonempty(const JsonPart& part, const char* key) {
  std::string text = part.text(key);
  if (text.empty()) {
    part.fail(fmt::format("'{}' is empty", key));
  }
  return text;
}

Regex pattern_of(const JsonPart& part) {
  const JsonPart pattern = part.at(part.member("pattern"));
  if (pattern.has("Regex")) {
    return Regex::pattern(nonempty(pattern, "Regex"),
                          fmt::format("{}: {}", part.file, part.section));
  }
  return Regex::literal(nonempty(pattern, "String"));
}

Behaviour behaviour_of(const JsonPart& part, const std::string& text) {
  if (text == "Isolated") {
    return Behaviour::kIsolated;
  }
  if (text == "Removed") {
    return Behaviour::kRemoved;
  }
  if (text == "MergedWithPrevious") {
    return Behaviour::kMergedWithPrevious;
  }
  if (text == "MergedWithNext") {
    return Behaviour::kMergedWithNext;
  }
  if (text != "Contiguous") {
    part.fail(fmt::format("the behavior '{}' is not known", text));
  }
  return Behaviour::kContiguous;
}

/// Files of old versions say add_prefix_space.
Prefix prefix_of(const JsonPart& part) {
  const std::string scheme =
      part.text_or("prepend_scheme", part.flag("add_prefix_space", true) ? "always" : "never");
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    part.fail(fmt::format("the prepend_scheme '{}' is not known", scheme));
  }
  return scheme == "always" ? Prefix::kAlways : scheme == "first" ? Prefix::kFirst : Prefix::kNever;
}

NormalizeStep normalize_step(const JsonPart& part, const std::string& type) {
  using Kind = NormalizeStep::Kind;
  const std::pair<std::string_view, NormalForm> forms[] = {{"NFC", NormalForm::kNfc},
                                                           {"NFD", NormalForm::kNfd},
                                                           {"NFKC", NormalForm::kNfkc},
                                                           {"NFKD", NormalForm::kNfkd}};
  NormalizeStep step;
  for (const auto& [form_name, form] : forms) {
    if (type == form_name) {
      step.form = form;
      return step;
    }
  }
  if (type == "Lowercase") {
    step.kind = Kind::kLowercase;
  } else if (type == "StripAccents") {
    step.kind = Kind::kStripAccents;
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    step.left = part.flag("strip_left", true);
    step.right = part.flag("strip_right", true);
  } else if (type == "Prepend") {
    step.kind = Kind::kPrepend;
    step.text = part.text("prepend");
  } else if (type == "Replace") {
    step.kind = Kind::kReplace;
    step.regex = pattern_of(part);
    step.text = part.text("content");
  } else {
    part.fail(
        fmt::format("'{}' is not supported; Sequence, NFC, NFD, NFKC, NFKD, Lowercase, "
                    "StripAccents, Strip, Prepend and Replace are",
                    type));
  }
  return step;
}

SplitStep metaspace(const JsonPart& part) {
  SplitStep step;
  step.mark = part.text_or("replacement", "\xE2\x96\x81");
  if (step.mark.empty() || utf8_length(step.mark) != step.mark.size()) {
    part.fail("'replacement' is no single character");
  }
  step.prefix = prefix_of(part);
  if (part.flag("split", true)) {
    step.regex = Regex::literal(step.mark);
    step.behaviour = Behaviour::kMergedWithNext;
  }
  return step;
}

SplitStep split_step(const JsonPart& part, const std::string& type) {
  const std::string name = fmt::format("{}: {}", part.file, part.section);
  SplitStep step;
  if (type == "ByteLevel") {
    step.prefix = part.flag("add_prefix_space", true) ? Prefix::kAlways : Prefix::kNever;
    if (part.flag("use_regex", true)) {
      step.regex = Regex::pattern(kGpt2Words, name);
    }
  } else if (type == "Split") {
    step.regex = pattern_of(part);
    step.behaviour = behaviour_of(part, part.text("behavior"));
    step.invert = part.flag("invert", false);
  } else if (type == "Metaspace") {
    step = metaspace(part);
  } else if (type == "Digits") {
    step.regex = Regex::pattern(R"(\p{N})", name);
    step.behaviour =
        part.flag("individual_digits", false) ? Behaviour::kIsolated : Behaviour::kContiguous;
  } else if (type == "Punctuation") {
    step.regex = Regex::pattern(R"([\p{P}$+<=>^`|~])", name);
    step.behaviour = behaviour_of(part, part.text_or("behavior", "Isolated"));
  } else if (type == "Whitespace") {
    step.regex = Regex::pattern(fmt::format("[{0}]+|[^{0}\\s]+", kWordCharacters), name);
    step.behaviour = Behaviour::kRemoved;
    step.invert = true;
  } else if (type == "WhitespaceSplit") {
    step.regex = Regex::pattern(R"(\s)", name);
    step.behaviour = Behaviour::kRemoved;
  } else {
    part.fail(
        fmt::format("'{}' is not supported; Sequence, Split, ByteLevel, Metaspace, Digits, "
                    "Punctuation, Whitespace and WhitespaceSplit are",
                    type));
  }
  return step;
}

DecodeStep decode_step(const JsonPart& part, const std::string& type) {
  using Kind = DecodeStep::Kind;
  DecodeStep step;
  if (type == "ByteLevel") {
    step.kind = Kind::kByteLevel;
  } else if (type == "ByteFallback") {
    step.kind = Kind::kByteFallback;
  } else if (type == "Fuse") {
    step.kind = Kind::kFuse;
  } else if (type == "Replace") {
    step.kind = Kind::kReplace;
    step.find = nonempty(part.at(part.member("pattern")), "String");
    step.replacement = part.text("content");
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    step.find = nonempty(part, "content");
    step.left = static_cast<std::size_t>(part.number("start", 0, kMostStripped));
    step.right = static_cast<std::size_t>(part.number("stop", 0, kMostStripped));
  } else if (type == "Metaspace") {
    const SplitStep marks = metaspace(part);
    step.kind = Kind::kMetaspace;
    step.find = marks.mark;
    step.drops_first = marks.prefix != Prefix::kNever;
  } else {
    part.fail(
        fmt::format("'{}' is not supported; Sequence, ByteLevel, ByteFallback, Fuse, Replace, "
                    "Strip and Metaspace are",
                    type));
  }
  return step;
}

}  // namespace

std::vector<NormalizeStep> read_normalizer(const Json& file, const std::string& name) {
  std::vector<NormalizeStep> steps;
  each_step(section_of(file, "normalizer", name), "normalizers", 0,
            [&](const JsonPart& part, const std::string& type) {
              steps.push_back(normalize_step(part, type));
            });
  return steps;
}

Words read_pre_tokenizer(const Json& file, const std::string& name) {
  Words words;
  each_step(section_of(file, "pre_tokenizer", name), "pretokenizers", 0,
            [&](const JsonPart& part, const std::string& type) {
              if (words.byte_level) {
                part.fail(fmt::format("'{}' follows ByteLevel, which must be the last", type));
              }
              words.steps.push_back(split_step(part, type));
              words.byte_level = type == "ByteLevel";
            });
  return words;
}

std::vector<DecodeStep> read_decoder(const Json& file, const std::string& name) {
  std::vector<DecodeStep> steps;
  each_step(section_of(file, "decoder", name), "decoders", 0,
            [&](const JsonPart& part, const std::string& type) {
              steps.push_back(decode_step(part, type));
            });
  return steps;
}

}  // namespace moesaic::text
