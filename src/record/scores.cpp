#include "record/scores.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "base/error.h"
#include "files/columns.h"
#include "files/durable.h"
#include "files/problems.h"

namespace moesaic::record {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kTokenChunk = 65536;
constexpr std::int64_t kDocumentChunk = 4096;

void add_to(std::vector<double>& sums, const std::vector<double>& others) {
  require(sums.size() == others.size(), "details of two models are added");
  std::transform(sums.begin(), sums.end(), others.begin(), sums.begin(), std::plus<>());
}

void write_sums(files::Hdf5File& file, const std::string& name, const files::Extents& extents,
                const std::vector<double>& values, const std::string& units,
                const std::string& long_name) {
  file.write_all<double>(name, extents, values);
  files::describe(file, name, units, long_name);
}

void write_details(files::Hdf5File& file, const ReferenceDetails& details) {
  if (!details.layers.empty()) {
    write_sums(file, "/layers/divergence", {std::ssize(details.layers)}, details.layers, "nat",
               "sum over tokens with this layer alone as in the model; the last: the head");
  }
  if (!details.expert_layers.empty()) {
    const std::int64_t layers = std::ssize(details.expert_layers);
    const files::Extents extents{layers, details.experts()};
    file.write_all<std::int64_t>("/experts/layer", {layers}, details.expert_layers);
    file.set_attribute("/experts/layer", "long_name", std::string("layer of each row of experts"));
    write_sums(file, "/experts/tokens", extents, details.expert_tokens, "token",
               "rows that the expert got in the reference");
    write_sums(file, "/experts/squares", extents, details.expert_squares, "1",
               "sum over rows of the squared norm of the reference's output");
    write_sums(file, "/experts/errors", extents, details.expert_errors, "1",
               "sum over rows of the squared norm of the error of the model's output");
  }
}

ReferenceDetails read_details(const files::Hdf5File& file) {
  ReferenceDetails details;
  if (file.has("/layers/divergence")) {
    details.layers = file.read_all<double>("/layers/divergence");
  }
  if (file.has("/experts/layer")) {
    details.expert_layers = file.read_all<std::int64_t>("/experts/layer");
    details.expert_tokens = file.read_all<double>("/experts/tokens");
    details.expert_squares = file.read_all<double>("/experts/squares");
    details.expert_errors = file.read_all<double>("/experts/errors");
    const std::size_t layers = details.expert_layers.size(), all = details.expert_tokens.size();
    if (layers == 0 || all % layers != 0 || details.expert_squares.size() != all ||
        details.expert_errors.size() != all) {
      throw Error(Exit::kBadData,
                  file.path().string() + ": /experts: the tables differ in size: run score again");
    }
  }
  return details;
}

ReferenceTotals read_reference(const files::Hdf5File& file) {
  return {file.double_attribute("/", "reference_logprob"), file.double_attribute("/", "divergence"),
          file.double_attribute("/", "divergence_max"), file.int_attribute("/", "agreeing"),
          read_details(file)};
}

void write_reference(files::Hdf5File& file, const std::string& text, const ScoreTotals& totals) {
  const ReferenceTotals& reference = totals.reference;
  file.set_attribute("/", "reference", text);
  file.set_attribute("/", "reference_logprob", reference.logprob);
  file.set_attribute("/", "reference_perplexity", std::exp(-totals.per_token(reference.logprob)));
  file.set_attribute("/", "divergence", reference.divergence);
  file.set_attribute("/", "divergence_mean", totals.per_token(reference.divergence));
  file.set_attribute("/", "divergence_max", reference.largest);
  file.set_attribute("/", "agreeing", reference.agreeing);
  file.set_attribute("/", "agreement", totals.per_token(static_cast<double>(reference.agreeing)));
  write_details(file, reference.details);
}

}  // namespace

void ReferenceDetails::add(const ReferenceDetails& other) {
  if (layers.empty() && expert_layers.empty()) {
    *this = other;
    return;
  }
  add_to(layers, other.layers);
  add_to(expert_tokens, other.expert_tokens);
  add_to(expert_squares, other.expert_squares);
  add_to(expert_errors, other.expert_errors);
}

void ReferenceTotals::add(const TokenScores& tokens) {
  for (std::size_t i = 0; i < tokens.divergence.size(); ++i) {
    const auto nats = static_cast<double>(tokens.divergence[i]);
    logprob += static_cast<double>(tokens.reference_logprob[i]);
    divergence += nats;
    largest = std::max(largest, nats);
    agreeing += tokens.agrees[i];
  }
}

void ReferenceTotals::add(const ReferenceTotals& other) {
  logprob += other.logprob;
  divergence += other.divergence;
  largest = std::max(largest, other.largest);
  agreeing += other.agreeing;
  details.add(other.details);
}

void ScoreTotals::add(const ScoreTotals& other) {
  documents += other.documents;
  tokens += other.tokens;
  logprob += other.logprob;
  whole_nats += other.whole_nats;
  whole_bytes += other.whole_bytes;
  reference.add(other.reference);
}

double ScoreTotals::per_token(double sum) const {
  return tokens > 0 ? sum / static_cast<double>(tokens) : std::numeric_limits<double>::quiet_NaN();
}

double ScoreTotals::perplexity() const { return std::exp(-per_token(logprob)); }

double ScoreTotals::bits_per_byte() const {
  return whole_bytes > 0 ? whole_nats / (std::log(2.0) * static_cast<double>(whole_bytes))
                         : std::numeric_limits<double>::quiet_NaN();
}

ScoresWriter::ScoresWriter(const fs::path& file, std::int64_t id_width, bool compared)
    : file_(file), compared_(compared) {
  using files::create_column;
  files::Hdf5File& made = *file_;
  create_column<float>(made, "/tokens/logprob", kTokenChunk, "nat",
                       "log-probability of each predicted token");
  if (compared_) {
    create_column<float>(made, "/tokens/reference_logprob", kTokenChunk, "nat",
                         "the reference's log-probability of each predicted token");
    create_column<float>(made, "/tokens/divergence", kTokenChunk, "nat",
                         "Kullback-Leibler divergence D(reference || model) at each token");
    create_column<std::uint8_t>(made, "/tokens/agrees", kTokenChunk, "1",
                                "whether the top-1 token is the reference's");
  }
  create_column<std::uint64_t>(made, "/documents/offsets", kDocumentChunk, "1",
                               "first entry of /tokens/logprob of each document, and the end");
  create_column<double>(made, "/documents/logprob", kDocumentChunk, "nat",
                        "log-probability of the scored tokens");
  create_column<std::uint64_t>(made, "/documents/tokens", kDocumentChunk, "token", "scored tokens");
  create_column<std::uint8_t>(made, "/documents/greedy", kDocumentChunk, "1",
                              "whether each scored token was the argmax");
  files::create_text_column(made, "/documents/id", kDocumentChunk, id_width);
  files::append(made, "/documents/offsets", std::vector<std::int64_t>{0});
}

void ScoresWriter::add_tokens(const TokenScores& tokens) {
  files::append(*file_, "/tokens/logprob", tokens.logprob);
  if (compared_) {
    require(tokens.reference_logprob.size() == tokens.logprob.size() &&
                tokens.divergence.size() == tokens.logprob.size() &&
                tokens.agrees.size() == tokens.logprob.size(),
            "each token needs its reference");
    files::append(*file_, "/tokens/reference_logprob", tokens.reference_logprob);
    files::append(*file_, "/tokens/divergence", tokens.divergence);
    files::append(*file_, "/tokens/agrees", tokens.agrees);
  }
  tokens_ += std::ssize(tokens.logprob);
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
  require(documents.id.size() == documents.tokens.size(), "each document needs its id");
  files::append(*file_, "/documents/offsets", offsets);
  files::append(*file_, "/documents/logprob", documents.logprob);
  files::append(*file_, "/documents/tokens", documents.tokens);
  files::append(*file_, "/documents/greedy", documents.greedy);
  files::append(*file_, "/documents/id", documents.id);
  documents_ += std::ssize(documents.tokens);
}

void ScoresWriter::copy_tokens(const files::Hdf5File& file) {
  constexpr std::int64_t kBlock = std::int64_t{1} << 20U;
  const std::int64_t all = file.extents("/tokens/logprob").at(0);
  for (std::int64_t begin = 0; begin < all; begin += kBlock) {
    add_tokens(read_token_scores(file, compared_, begin, std::min(kBlock, all - begin)));
  }
}

void ScoresWriter::finish(const ScoresHeader& header, const ScoreTotals& totals,
                          std::int64_t trace_step) {
  describe(header, totals, trace_step);
  file_.publish();
}

void ScoresWriter::keep(const fs::path& file, const ScoresHeader& header, const ScoreTotals& totals,
                        std::int64_t trace_step, const BegunScores& begun) {
  file_->set_attribute("/", "batches", begun.batches);
  file_->set_attribute("/", "windows", begun.windows);
  describe(header, totals, trace_step);
  file_.publish_as(file);
}

void ScoresWriter::describe(const ScoresHeader& header, const ScoreTotals& totals,
                            std::int64_t trace_step) {
  files::Hdf5File& made = *file_;
  require(tokens_ == offset_ && tokens_ == totals.tokens && documents_ == totals.documents,
          "scores of tokens and of documents differ in number");
  files::write_format(made, kScoresSchema, kScoresVersion);
  made.set_attribute("/", "model", header.model);
  made.set_attribute("/", "config", header.config);
  made.set_attribute("/", "fingerprint", header.fingerprint);
  made.set_attribute("/", "vocab_size", header.vocab_size);
  made.set_attribute("/", "documents", totals.documents);
  made.set_attribute("/", "tokens", totals.tokens);
  made.set_attribute("/", "logprob", totals.logprob);
  made.set_attribute("/", "whole_nats", totals.whole_nats);
  made.set_attribute("/", "whole_bytes", totals.whole_bytes);
  made.set_attribute("/", "perplexity", totals.perplexity());
  made.set_attribute("/", "bits_per_byte", totals.bits_per_byte());
  made.set_attribute("/", "trace_step", trace_step);
  if (compared_) {
    write_reference(made, header.reference, totals);
  }
}

ScoresSummary scores_summary(const files::Hdf5File& file) {
  files::check_format(file, kScoresSchema, kScoresVersion);
  const bool compared = file.has_attribute("/", "reference");
  return {
      {file.string_attribute("/", "model"), file.string_attribute("/", "config"),
       file.string_attribute("/", "fingerprint"), file.int_attribute("/", "vocab_size"),
       compared ? file.string_attribute("/", "reference") : std::string()},
      {file.int_attribute("/", "documents"), file.int_attribute("/", "tokens"),
       file.double_attribute("/", "logprob"), file.double_attribute("/", "whole_nats"),
       file.int_attribute("/", "whole_bytes"), compared ? read_reference(file) : ReferenceTotals()},
      file.int_attribute("/", "trace_step")};
}

std::optional<ScoresSummary> read_scores_summary(const fs::path& path) {
  if (!files::is_there(path)) {
    return std::nullopt;
  }
  return files::unless_damaged([&]() -> std::optional<ScoresSummary> {
    return scores_summary(files::Hdf5File::open(path));
  });
}

TokenScores read_token_scores(const files::Hdf5File& file, bool compared, std::int64_t begin,
                              std::int64_t count) {
  TokenScores tokens;
  const auto read = [&]<class T>(const std::string& name, std::vector<T>& to) {
    to.resize(static_cast<std::size_t>(count));
    file.read<T>(name, {begin}, {count}, to);
  };
  read("/tokens/logprob", tokens.logprob);
  if (compared) {
    read("/tokens/reference_logprob", tokens.reference_logprob);
    read("/tokens/divergence", tokens.divergence);
    read("/tokens/agrees", tokens.agrees);
  }
  return tokens;
}

DocumentScores read_document_scores(const files::Hdf5File& file) {
  return {file.read_all<double>("/documents/logprob"),
          file.read_all<std::int64_t>("/documents/tokens"),
          file.read_all<std::uint8_t>("/documents/greedy"), file.read_strings("/documents/id")};
}

BegunScores read_begun(const files::Hdf5File& file) {
  return {file.int_attribute("/", "batches"), file.int_attribute("/", "windows")};
}

ScoreTotals join_scores(const std::vector<fs::path>& parts, const fs::path& path,
                        const ScoresHeader& header) {
  std::int64_t id_width = 1;
  for (const fs::path& part : parts) {
    id_width = std::max(id_width, files::Hdf5File::open(part).string_width("/documents/id"));
  }
  const bool compared = !header.reference.empty();
  ScoresWriter joined(path, id_width, compared);
  ScoreTotals totals;
  std::int64_t trace_step = 0;
  for (const fs::path& part : parts) {
    const std::optional<ScoresSummary> summary = read_scores_summary(part);
    if (!summary) {
      throw Error(Exit::kBadData, part.string() +
                                      ": is no sound part of the scores: remove it "
                                      "and run score again");
    }
    const files::Hdf5File file = files::Hdf5File::open(part);
    joined.copy_tokens(file);
    joined.add_documents(read_document_scores(file));
    totals.add(summary->totals);
    trace_step = std::max(trace_step, summary->trace_step);
  }
  joined.finish(header, totals, trace_step);
  return totals;
}

}  // namespace moesaic::record
