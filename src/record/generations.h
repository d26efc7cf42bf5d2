#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "files/columns.h"

// A file of continuations: /tokens/{token,logprob} of all documents in the corpus's order, and
// /documents/{offsets,id,prompt_tokens,reason}; their texts are lines of JSON in a file beside it.
// What writes or reads the first one runs on the HDF5 thread.
namespace moesaic::record {

/// Why a continuation ended. The numbers are those of the file.
enum class EndReason : std::uint8_t { kEos, kStop, kMaxTokens, kMaxSeq };

/// The continuation of one document.
struct Continuation {
  std::string id;
  std::int64_t prompt_tokens = 0;
  std::vector<std::int32_t> token;
  std::vector<float> logprob;  // nats, of each token under the model's own distribution
  EndReason reason = EndReason::kMaxTokens;
};

/// Where the continuations come from.
struct GenerationsHeader {
  std::string model;        // path and step of the checkpoint
  std::string config;       // as a config file
  std::string fingerprint;  // of all that the tokens depend on
};

struct GenerationTotals {
  std::int64_t documents = 0, tokens = 0;
  double logprob = 0.0;  // nats
};

/// Writes one file under a temporary name; finish() makes it durable and visible.
class GenerationsWriter {
 public:
  /// id_width: bytes of the longest id.
  GenerationsWriter(const std::filesystem::path& file, std::int64_t id_width);
  void add(std::span<const Continuation> continuations);
  /// trace_step: the last batch of the trace that is in here.
  GenerationTotals finish(const GenerationsHeader& header, std::int64_t trace_step);

 private:
  files::NewHdf5File file_;
  GenerationTotals totals_;
};

/// The attributes of such a file.
struct GenerationsSummary {
  GenerationsHeader header;
  GenerationTotals totals;
  std::int64_t trace_step = 0;
};
/// Nothing if there is no such file or it is no file of continuations.
std::optional<GenerationsSummary> read_generations_summary(const std::filesystem::path& file);
/// All of a file.
std::vector<Continuation> read_generations(const std::filesystem::path& file);

/// One line of JSON, with its end: id, text, tokens (their number), reason, logprob (their sum).
/// Bytes of the text that are no UTF-8 become U+FFFD; no text: null.
std::string text_line(const Continuation& continuation, const std::optional<std::string>& text);

/// Every problem of such a file, one line each (empty: sound). May be called anywhere.
std::vector<std::string> verify_generations(const std::filesystem::path& file);

}  // namespace moesaic::record
