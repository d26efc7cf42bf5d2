#include "io/scores.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "io/files.h"

namespace moesaic::io {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kTokenChunk = 65536;
constexpr std::int64_t kDocumentChunk = 4096;

template <class T>
void create_column(Hdf5File& file, const std::string& name, std::int64_t chunk,
                   const std::string& units, const std::string& long_name) {
  file.create_dataset<T>(name, {0}, {.chunk = {chunk}, .unlimited = true, .checksum = true});
  file.set_attribute(name, "units", units);
  file.set_attribute(name, "long_name", long_name);
}

template <class T>
void append_values(Hdf5File& file, const std::string& name, std::int64_t at,
                   std::span<const T> values) {
  const auto count = static_cast<std::int64_t>(values.size());
  if (count > 0) {
    file.extend(name, {at + count});
    file.write<T>(name, {at}, {count}, values);
  }
}

}  // namespace

void ScoreTotals::add(const ScoreTotals& other) {
  documents += other.documents;
  tokens += other.tokens;
  logprob += other.logprob;
  whole_nats += other.whole_nats;
  whole_bytes += other.whole_bytes;
}

double ScoreTotals::perplexity() const {
  return tokens > 0 ? std::exp(-logprob / static_cast<double>(tokens))
                    : std::numeric_limits<double>::quiet_NaN();
}

double ScoreTotals::bits_per_byte() const {
  return whole_bytes > 0 ? whole_nats / (std::log(2.0) * static_cast<double>(whole_bytes))
                         : std::numeric_limits<double>::quiet_NaN();
}

ScoresWriter::ScoresWriter(const fs::path& file, std::int64_t id_width)
    : final_(file), temporary_(file.string() + ".tmp"), file_(Hdf5File::create(temporary_)) {
  create_column<float>(file_, "/tokens/logprob", kTokenChunk, "nat",
                       "log-probability of each predicted token");
  create_column<std::uint64_t>(file_, "/documents/offsets", kDocumentChunk, "1",
                               "first entry of /tokens/logprob of each document, and the end");
  create_column<double>(file_, "/documents/logprob", kDocumentChunk, "nat",
                        "log-probability of the scored tokens");
  create_column<std::uint64_t>(file_, "/documents/tokens", kDocumentChunk, "token",
                               "scored tokens");
  create_column<std::uint8_t>(file_, "/documents/greedy", kDocumentChunk, "1",
                              "whether each scored token was the likeliest");
  file_.create_strings(
      "/documents/id", id_width,
      {.chunk = {kDocumentChunk}, .unlimited = true, .checksum = true, .compress = true});
  append_values<std::int64_t>(file_, "/documents/offsets", 0, std::vector<std::int64_t>{0});
}

ScoresWriter::~ScoresWriter() {
  if (!finished_) {
    std::error_code ignored;
    fs::remove(temporary_, ignored);
  }
}

void ScoresWriter::add_tokens(std::span<const float> logprob) {
  append_values(file_, "/tokens/logprob", tokens_, logprob);
  tokens_ += static_cast<std::int64_t>(logprob.size());
}

void ScoresWriter::add_documents(const DocumentScores& documents) {
  if (documents.tokens.empty()) {
    return;
  }
  std::vector<std::int64_t> offsets;
  for (const std::int64_t tokens : documents.tokens) {
    offset_ += tokens;
    offsets.push_back(offset_);
  }
  append_values<std::int64_t>(file_, "/documents/offsets", documents_ + 1, offsets);
  append_values<double>(file_, "/documents/logprob", documents_, documents.logprob);
  append_values<std::int64_t>(file_, "/documents/tokens", documents_, documents.tokens);
  append_values<std::uint8_t>(file_, "/documents/greedy", documents_, documents.greedy);
  require(documents.id.size() == documents.tokens.size(), "each document needs its id");
  file_.extend("/documents/id", {documents_ + std::ssize(documents.id)});
  file_.write_strings("/documents/id", documents_, documents.id);
  documents_ += std::ssize(documents.tokens);
}

void ScoresWriter::finish(const ScoresHeader& header, const ScoreTotals& totals,
                          std::int64_t trace_step) {
  require(tokens_ == offset_ && tokens_ == totals.tokens && documents_ == totals.documents,
          "scores of tokens and of documents differ in number");
  file_.set_attribute("/", "schema", std::string("moesaic-scores"));
  file_.set_attribute("/", "version", std::int64_t{1});
  file_.set_attribute("/", "model", header.model);
  file_.set_attribute("/", "config", header.config);
  file_.set_attribute("/", "fingerprint", header.fingerprint);
  file_.set_attribute("/", "vocab_size", header.vocab_size);
  file_.set_attribute("/", "documents", totals.documents);
  file_.set_attribute("/", "tokens", totals.tokens);
  file_.set_attribute("/", "logprob", totals.logprob);
  file_.set_attribute("/", "whole_nats", totals.whole_nats);
  file_.set_attribute("/", "whole_bytes", totals.whole_bytes);
  file_.set_attribute("/", "perplexity", totals.perplexity());
  file_.set_attribute("/", "bits_per_byte", totals.bits_per_byte());
  file_.set_attribute("/", "trace_step", trace_step);
  file_.close();
  publish(temporary_, final_);
  finished_ = true;
}

std::optional<ScoresSummary> read_scores_summary(const fs::path& path) {
  try {
    const Hdf5File file = Hdf5File::open(path);
    if (!file.has_attribute("/", "schema") ||
        file.string_attribute("/", "schema") != "moesaic-scores" ||
        file.int_attribute("/", "version") != 1) {
      return std::nullopt;
    }
    return ScoresSummary{
        {file.string_attribute("/", "model"), file.string_attribute("/", "config"),
         file.string_attribute("/", "fingerprint"), file.int_attribute("/", "vocab_size")},
        {file.int_attribute("/", "documents"), file.int_attribute("/", "tokens"),
         file.double_attribute("/", "logprob"), file.double_attribute("/", "whole_nats"),
         file.int_attribute("/", "whole_bytes")},
        file.int_attribute("/", "trace_step")};
  } catch (const Error&) {
    return std::nullopt;
  }
}

ScoreTotals join_scores(const std::vector<fs::path>& parts, const fs::path& path,
                        const ScoresHeader& header) {
  constexpr std::int64_t kBlock = std::int64_t{1} << 20U;
  std::int64_t id_width = 1;
  for (const fs::path& part : parts) {
    id_width = std::max(id_width, Hdf5File::open(part).string_width("/documents/id"));
  }
  ScoresWriter joined(path, id_width);
  ScoreTotals totals;
  std::int64_t trace_step = 0;
  for (const fs::path& part : parts) {
    const std::optional<ScoresSummary> summary = read_scores_summary(part);
    if (!summary) {
      throw Error(Exit::kBadData, part.string() +
                                      ": is no sound part of the scores: remove it "
                                      "and run score again");
    }
    const Hdf5File file = Hdf5File::open(part);
    for (std::int64_t begin = 0; begin < summary->totals.tokens; begin += kBlock) {
      const std::int64_t count = std::min(kBlock, summary->totals.tokens - begin);
      std::vector<float> block(static_cast<std::size_t>(count));
      file.read<float>("/tokens/logprob", {begin}, {count}, block);
      joined.add_tokens(block);
    }
    joined.add_documents({file.read_all<double>("/documents/logprob"),
                          file.read_all<std::int64_t>("/documents/tokens"),
                          file.read_all<std::uint8_t>("/documents/greedy"),
                          file.read_strings("/documents/id")});
    totals.add(summary->totals);
    trace_step = std::max(trace_step, summary->trace_step);
  }
  joined.finish(header, totals, trace_step);
  return totals;
}

}  // namespace moesaic::io
