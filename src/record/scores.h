#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "files/columns.h"

// A scores file: /tokens/logprob, one for each predicted token in document order, and
// /documents/{offsets,logprob,tokens,greedy,id}. With a reference (score.reference) as well
// /tokens/{reference_logprob,divergence,agrees}, and where details were asked for
// /layers/divergence (L + 1), and /experts/{layer,tokens,squares,errors} (M, E): sums that add up
// over files. What writes or reads one runs on the HDF5 thread.
namespace moesaic::record {

constexpr const char* kScoresSchema = "moesaic-scores";
constexpr std::int64_t kScoresVersion = 1;

/// Where the scores come from.
struct ScoresHeader {
  std::string model;        // path and step of the checkpoint
  std::string config;       // as a config file
  std::string fingerprint;  // of all that the numbers depend on
  std::int64_t vocab_size = 0;
  std::string reference = {};  // path, step and precision of score.reference; empty: none
  std::int64_t windows = 0;    // of a batch: a kept beginning goes on in batches of the same
};

/// Sums of what score.reference_detail asks for.
struct ReferenceDetails {
  // Divergence in nats if only this layer is as in the model; the last entry is the head's.
  std::vector<double> layers;               // (L + 1), or empty
  std::vector<std::int64_t> expert_layers;  // (M) the layers that have experts, or empty
  // What an expert got of the reference's rows, and sums over these of |y|^2 and of |error of y|^2.
  std::vector<double> expert_tokens, expert_squares, expert_errors;  // (M, E)

  void add(const ReferenceDetails& other);  // empty here: becomes the other
  std::int64_t experts() const {            // E
    return expert_layers.empty() ? 0 : std::ssize(expert_tokens) / std::ssize(expert_layers);
  }
};

/// Scores of consecutive tokens. With a reference all vectors have one length.
struct TokenScores {
  std::vector<float> logprob;
  std::vector<float> reference_logprob, divergence;  // nats
  std::vector<std::uint8_t> agrees;                  // 1: the top-1 token is the reference's
};

/// How the model differs from the reference on the scored tokens.
struct ReferenceTotals {
  double logprob = 0.0;       // the reference's, nats
  double divergence = 0.0;    // D(reference || model) nats, summed over tokens
  double largest = 0.0;       // of a token
  std::int64_t agreeing = 0;  // tokens whose top-1 token is the same
  ReferenceDetails details;

  void add(const TokenScores& tokens);
  void add(const ReferenceTotals& other);
};

/// Sums that add up over the parts of an output.
struct ScoreTotals {
  std::int64_t documents = 0, tokens = 0;
  double logprob = 0.0;  // nats
  // Sums over the documents of which every token but the first was scored. Other documents have
  // bytes without a log-probability: of a context, or of a tail that was cut off.
  double whole_nats = 0.0;  // -log p + first tokens x ln(vocab_size)
  std::int64_t whole_bytes = 0;
  ReferenceTotals reference = {};

  void add(const ScoreTotals& other);
  double perplexity() const;           // NaN without tokens
  double bits_per_byte() const;        // NaN without bytes
  double per_token(double sum) const;  // NaN without tokens
};

/// A row for each document, in the order of the corpus.
struct DocumentScores {
  std::vector<double> logprob;       // sum over the scored tokens, nats
  std::vector<std::int64_t> tokens;  // scored
  std::vector<std::uint8_t> greedy;  // 1: each scored token was the argmax; 0 without tokens
  std::vector<std::string> id;
};

/// How far a shard is scored whose job was stopped.
struct BegunScores {
  std::int64_t batches = 0;  // that are in the file, from the first one on
  std::int64_t windows = 0;  // of a batch: score.batch
};

/// Writes one file under a temporary name; finish() makes it durable and visible. Holds nothing
/// but the rows of a call.
class ScoresWriter {
 public:
  /// id_width: bytes of the longest id. compared: with a reference.
  ScoresWriter(const std::filesystem::path& file, std::int64_t id_width, bool compared);

  void add_tokens(const TokenScores& tokens);
  void add_documents(const DocumentScores& documents);
  /// All of a file of scores.
  void copy_tokens(const files::Hdf5File& file);
  /// trace_step: the last batch of the trace that is in here.
  void finish(const ScoresHeader& header, const ScoreTotals& totals, std::int64_t trace_step);
  /// In place of finish, where the job is stopped: makes `file`, with attributes of `begun`.
  void keep(const std::filesystem::path& file, const ScoresHeader& header,
            const ScoreTotals& totals, std::int64_t trace_step, const BegunScores& begun);

 private:
  void describe(const ScoresHeader& header, const ScoreTotals& totals, std::int64_t trace_step);

  files::NewHdf5File file_;
  bool compared_;
  std::int64_t tokens_ = 0, documents_ = 0, offset_ = 0;
};

/// The attributes of a scores file.
struct ScoresSummary {
  ScoresHeader header;
  ScoreTotals totals;
  std::int64_t trace_step = 0;
};
/// Reads the attributes of a scores file; on the HDF5 thread. Throws kBadData that names what is
/// missing or damaged.
ScoresSummary scores_summary(const files::Hdf5File& file);
/// Nothing if there is no such file or it is no sound scores file.
std::optional<ScoresSummary> read_scores_summary(const std::filesystem::path& file);

/// Tokens [begin, begin + count) of a scores file; compared: with a reference. On the HDF5 thread.
TokenScores read_token_scores(const files::Hdf5File& file, bool compared, std::int64_t begin,
                              std::int64_t count);

/// The rows of documents of a scores file. On the HDF5 thread.
DocumentScores read_document_scores(const files::Hdf5File& file);
/// Reads a file that ScoresWriter::keep made.
BegunScores read_begun(const files::Hdf5File& file);

/// One file from the parts, in their order, a block at a time.
ScoreTotals join_scores(const std::vector<std::filesystem::path>& parts,
                        const std::filesystem::path& file, const ScoresHeader& header);

/// Every problem of a scores file or folder, one line each (empty: sound). May be called anywhere.
std::vector<std::string> verify_scores(const std::filesystem::path& path);

}  // namespace moesaic::record
