#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "config/checks.h"
#include "config/enum_names.h"
#include "config/keys.h"
#include "config/validate.h"

namespace moesaic::config {
namespace {

void check_shares(const Data& data, Lines& lines) {
  const std::vector<double>& corpora = data.corpus_weights;
  if (!corpora.empty() && *std::max_element(corpora.begin(), corpora.end()) <= 0.0) {
    lines.emplace_back("data.corpus_weights are all 0: nothing would be sampled");
  }
  double largest = 0.0;
  std::set<std::string> names;
  for (const auto& [name, weight] : data.task_weights) {
    largest = std::max(largest, weight);
    if (!names.insert(name).second) {
      lines.push_back(fmt::format("data.task_weights names {} twice", name));
    }
  }
  if (!names.empty() && largest <= 0.0) {
    lines.emplace_back("data.task_weights are all 0: nothing would be sampled");
  }
  if (!names.empty() && !corpora.empty()) {
    lines.emplace_back(
        "data.corpus_weights and data.task_weights are both set, and could contradict each other: "
        "leave one out");
  }
}

void check_skipped(const std::vector<SampleRange>& ranges, Lines& lines) {
  for (std::size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].first < ranges[i - 1].end) {
      lines.push_back(fmt::format(
          "data.skip_samples: {}:{} begins before {}:{} ends: order the ranges, without overlaps",
          ranges[i].first, ranges[i].end, ranges[i - 1].first, ranges[i - 1].end));
    }
  }
}

}  // namespace

void check_train_inputs(const Config& c, Lines& lines) {
  check_shares(c.data, lines);
  check_skipped(c.data.skip_samples, lines);
  const std::size_t weights = c.data.corpus_weights.size();
  if (c.data.corpus.empty()) {
    lines.emplace_back("data.corpus is required: the corpus to train on");
  } else if (weights > 0 && weights != c.data.corpus.size()) {
    lines.push_back(fmt::format("data.corpus_weights has {} values for {} of data.corpus", weights,
                                c.data.corpus.size()));
  }
  if (c.eval.every > 0 && c.data.eval_corpus.empty()) {
    lines.push_back(fmt::format("eval.every = {} needs data.eval_corpus", c.eval.every));
  }
  for (const std::string& allowed : c.checkpoint.allow) {
    const Lines known = sections();
    const bool is_section = std::find(known.begin(), known.end(), allowed) != known.end();
    if (!is_section && find_key(allowed) == nullptr) {
      lines.push_back(fmt::format("checkpoint.allow = {} is neither a key nor a section{}", allowed,
                                  suggestion(allowed)));
    }
  }
}

void check_score(const Config& c, Lines& lines) {
  const ScoreJob& s = c.score;
  if (c.model.path.empty()) {
    lines.emplace_back("model.path is required: the checkpoint to score with");
  }
  if (c.data.corpus.empty()) {
    lines.emplace_back("data.corpus is required: the corpus to score");
  }
  if (s.output.empty()) {
    lines.emplace_back("score.output (or run.dir) is required: where to write the scores");
  }
  if (s.window > c.model.max_seq) {
    lines.push_back(fmt::format(
        "score.window = {} is more than model.max_seq = {}: set score.window to at most {}",
        s.window, c.model.max_seq, c.model.max_seq));
  }
  if (s.stride > s.window) {
    lines.push_back(
        fmt::format("score.stride = {} is more than score.window = {}", s.stride, s.window));
  }
  if (c.run.deterministic && c.router.eval_capacity) {
    lines.emplace_back(
        "run.deterministic = 1 contradicts router.eval_capacity = 1: who finds an expert full "
        "depends on the rest of the batch; leave one out");
  }
  if (s.reference.empty() && s.reference_detail != ReferenceDetail::kNone) {
    lines.push_back(fmt::format(
        "score.reference_detail = {} has no effect without score.reference: set it, to bf16 or "
        "fp32 for the same model unquantized",
        name_of(s.reference_detail)));
  }
  try {
    parse_shards(s.shards);
  } catch (const Error& error) {
    lines.push_back(fmt::format("score.shards: {}", error.what()));
  }
  if (!s.shards.empty() && s.output.ends_with(".h5")) {
    lines.push_back(fmt::format(
        "score.shards = {} needs a folder, but score.output = {} is one file: leave out .h5",
        s.shards, s.output));
  }
}

void check_generate(const Config& c, Lines& lines) {
  const GenerateJob& g = c.generate;
  if (c.model.path.empty()) {
    lines.emplace_back("model.path is required: the checkpoint or folder to generate with");
  }
  if (c.data.corpus.empty()) {
    lines.emplace_back("data.corpus is required: the corpus of prompts, made by tokenize");
  }
  if (g.output.empty()) {
    lines.emplace_back(
        "generate.output (or run.dir) is required: where to write the continuations");
  } else if (!g.output.ends_with(".h5")) {
    lines.push_back(
        fmt::format("generate.output = {} must end in .h5: use {}.h5", g.output, g.output));
  }
  if (g.top_p <= 0.0) {
    lines.push_back(fmt::format("generate.top_p = {} leaves no token: use more than 0", g.top_p));
  }
  const bool shapes = g.top_k > 0 || g.top_p < 1.0 || g.min_p > 0.0;
  if (g.temperature == 0.0 && shapes) {
    lines.emplace_back(
        "generate.top_k, top_p and min_p have no effect with generate.temperature = 0: leave them "
        "out, or set a temperature such as 1");
  }
  if (std::find(g.stop.begin(), g.stop.end(), "") != g.stop.end()) {
    lines.emplace_back("generate.stop holds an empty text, which every continuation begins with");
  }
}

void check_convert(const ConvertJob& c, Lines& lines) {
  if (c.quantize.has_value() && (c.to == ConvertTo::kHf || c.to == ConvertTo::kPeft)) {
    lines.push_back(fmt::format(
        "convert.quantize = {} makes a checkpoint, which convert.to = {} is not: leave one out",
        name_of(*c.quantize), name_of(c.to)));
  }
  if (!c.calibration.empty() && c.quantize != DType::kInt4) {
    lines.push_back(fmt::format(
        "convert.calibration has no effect with convert.quantize = {}{}: leave it out, or use int4",
        c.quantize ? name_of(*c.quantize) : "none",
        c.quantize == DType::kInt8 ? ", which takes the nearest of 255 levels either way" : ""));
  }
}

void check_tokenize(const Tokenize& t, Lines& lines) {
  if (t.input.empty()) {
    lines.emplace_back("tokenize.input is required: text files, JSONL files or folders");
  }
  if (t.output.empty()) {
    lines.emplace_back("tokenize.output is required: the folder for the corpus");
  }
  if (t.task.size() > 1 && t.task.size() != t.input.size()) {
    lines.push_back(fmt::format(
        "tokenize.task has {} names for {} of tokenize.input: give one, or one for each",
        t.task.size(), t.input.size()));
  }
  // A trained vocabulary holds the 256 bytes, so that no text is lost.
  constexpr std::int64_t kLeastVocabulary = 320;
  if (t.tokenizer == "train" && t.vocab_size < kLeastVocabulary) {
    lines.push_back(fmt::format(
        "tokenize.vocab_size = {} is too small to train a vocabulary: the nearest is {}",
        t.vocab_size, kLeastVocabulary));
  }
}

}  // namespace moesaic::config
