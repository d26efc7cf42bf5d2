#include "record/generations.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/json.h"
#include "files/columns.h"
#include "files/durable.h"
#include "files/hdf5/thread.h"
#include "files/problems.h"

namespace moesaic::record {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSchema = "moesaic-generations";
constexpr std::int64_t kVersion = 1;
constexpr std::int64_t kTokenChunk = 65536;
constexpr std::int64_t kDocumentChunk = 4096;
constexpr std::array<const char*, 4> kReasons = {"eos", "stop", "max_tokens", "max_seq"};

double sum(const std::vector<float>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0,
                         [](double total, float value) { return total + double{value}; });
}

}  // namespace

GenerationsWriter::GenerationsWriter(const fs::path& file, std::int64_t id_width) : file_(file) {
  using files::create_column;
  files::Hdf5File& made = *file_;
  create_column<std::int32_t>(made, "/tokens/token", kTokenChunk, "1", "chosen token");
  create_column<float>(made, "/tokens/logprob", kTokenChunk, "nat",
                       "log-probability of the token under the model's own distribution");
  create_column<std::uint64_t>(made, "/documents/offsets", kDocumentChunk, "1",
                               "first entry of /tokens of each document, and the end");
  create_column<std::uint64_t>(made, "/documents/prompt_tokens", kDocumentChunk, "token",
                               "tokens that were given");
  create_column<std::uint8_t>(made, "/documents/reason", kDocumentChunk, "1",
                              "why it ended: 0 eos, 1 stop string, 2 max_tokens, 3 max_seq");
  files::create_text_column(made, "/documents/id", kDocumentChunk, id_width);
  files::append(made, "/documents/offsets", std::vector<std::uint64_t>{0});
}

void GenerationsWriter::add(std::span<const Continuation> continuations) {
  std::vector<std::int32_t> token;
  std::vector<float> logprob;
  std::vector<std::uint64_t> offsets, prompt_tokens;
  std::vector<std::uint8_t> reason;
  std::vector<std::string> id;
  for (const Continuation& c : continuations) {
    token.insert(token.end(), c.token.begin(), c.token.end());
    logprob.insert(logprob.end(), c.logprob.begin(), c.logprob.end());
    totals_.tokens += std::ssize(c.token);
    totals_.logprob += sum(c.logprob);
    ++totals_.documents;
    offsets.push_back(static_cast<std::uint64_t>(totals_.tokens));
    prompt_tokens.push_back(static_cast<std::uint64_t>(c.prompt_tokens));
    reason.push_back(static_cast<std::uint8_t>(c.reason));
    id.push_back(c.id);
  }
  files::append(*file_, "/tokens/token", token);
  files::append(*file_, "/tokens/logprob", logprob);
  files::append(*file_, "/documents/offsets", offsets);
  files::append(*file_, "/documents/prompt_tokens", prompt_tokens);
  files::append(*file_, "/documents/reason", reason);
  files::append(*file_, "/documents/id", id);
}

GenerationTotals GenerationsWriter::finish(const GenerationsHeader& header,
                                           std::int64_t trace_step) {
  files::Hdf5File& made = *file_;
  files::write_format(made, kSchema, kVersion);
  made.set_attribute("/", "model", header.model);
  made.set_attribute("/", "config", header.config);
  made.set_attribute("/", "fingerprint", header.fingerprint);
  made.set_attribute("/", "documents", totals_.documents);
  made.set_attribute("/", "tokens", totals_.tokens);
  made.set_attribute("/", "logprob", totals_.logprob);
  made.set_attribute("/", "trace_step", trace_step);
  file_.publish();
  return totals_;
}

std::optional<GenerationsSummary> read_generations_summary(const fs::path& path) {
  if (!files::is_there(path)) {
    return std::nullopt;
  }
  return files::unless_damaged([&]() -> std::optional<GenerationsSummary> {
    const files::Hdf5File file = files::Hdf5File::open(path);
    files::check_format(file, kSchema, kVersion);
    return GenerationsSummary{
        {file.string_attribute("/", "model"), file.string_attribute("/", "config"),
         file.string_attribute("/", "fingerprint")},
        {file.int_attribute("/", "documents"), file.int_attribute("/", "tokens"),
         file.double_attribute("/", "logprob")},
        file.int_attribute("/", "trace_step")};
  });
}

std::vector<Continuation> read_generations(const fs::path& path) {
  const files::Hdf5File file = files::Hdf5File::open(path);
  const auto token = file.read_all<std::int32_t>("/tokens/token");
  const auto logprob = file.read_all<float>("/tokens/logprob");
  const auto offsets = file.read_all<std::int64_t>("/documents/offsets");
  const auto prompt_tokens = file.read_all<std::int64_t>("/documents/prompt_tokens");
  const auto reason = file.read_all<std::uint8_t>("/documents/reason");
  const std::vector<std::string> id = file.read_strings("/documents/id");
  std::vector<Continuation> all(id.size());
  for (std::size_t d = 0; d < all.size(); ++d) {
    all[d] = {id[d],
              prompt_tokens[d],
              {token.begin() + offsets[d], token.begin() + offsets[d + 1]},
              {logprob.begin() + offsets[d], logprob.begin() + offsets[d + 1]},
              static_cast<EndReason>(reason[d])};
  }
  return all;
}

std::string text_line(const Continuation& continuation, const std::optional<std::string>& text) {
  const auto written = [](const Json& value) { return value.dump(-1, Json::Bytes::kReplaced); };
  return fmt::format(R"({{"id":{},"text":{},"tokens":{},"reason":{},"logprob":{}}})"
                     "\n",
                     written(continuation.id), written(text ? Json(*text) : Json()),
                     continuation.token.size(),
                     written(kReasons.at(static_cast<std::size_t>(continuation.reason))),
                     written(sum(continuation.logprob)));
}

std::vector<std::string> verify_generations(const fs::path& path) {
  std::vector<std::string> problems;
  const auto expect = [&](bool good, const std::string& what) {
    if (!good) {
      problems.push_back(path.string() + ": " + what);
    }
  };
  files::hdf5_run([&] {
    files::note(problems, [&] {
      const std::optional<GenerationsSummary> summary = read_generations_summary(path);
      expect(summary.has_value(), "is no sound file of continuations");
      if (!summary) {
        return;
      }
      const files::Hdf5File file = files::Hdf5File::open(path);
      const auto token = file.read_all<std::int32_t>("/tokens/token");
      const auto logprob = file.read_all<float>("/tokens/logprob");
      const auto offsets = file.read_all<std::int64_t>("/documents/offsets");
      const auto prompts = file.read_all<std::int64_t>("/documents/prompt_tokens");
      const auto reason = file.read_all<std::uint8_t>("/documents/reason");
      const std::vector<std::string> id = file.read_strings("/documents/id");
      const GenerationTotals& totals = summary->totals;
      expect(std::ssize(token) == totals.tokens && token.size() == logprob.size(),
             fmt::format("{} tokens and {} log-probabilities, the attribute says {}", token.size(),
                         logprob.size(), totals.tokens));
      expect(
          std::ssize(id) == totals.documents && offsets.size() == id.size() + 1 &&
              prompts.size() == id.size() && reason.size() == id.size(),
          fmt::format("{} ids, {} offsets, {} prompt lengths and {} reasons of {} documents",
                      id.size(), offsets.size(), prompts.size(), reason.size(), totals.documents));
      expect(!offsets.empty() && offsets.front() == 0 && offsets.back() == std::ssize(token) &&
                 std::is_sorted(offsets.begin(), offsets.end()),
             "/documents/offsets do not grow from 0 to the number of tokens");
      expect(std::all_of(token.begin(), token.end(), [](std::int32_t t) { return t >= 0; }),
             "/tokens/token has negative entries");
      expect(std::all_of(logprob.begin(), logprob.end(),
                         [](float p) { return std::isfinite(p) && p <= 1e-3F; }),
             "/tokens/logprob has entries that are no log-probabilities");
      expect(std::all_of(reason.begin(), reason.end(),
                         [](std::uint8_t r) { return r < kReasons.size(); }),
             "/documents/reason has unknown entries");
    });
  });
  return problems;
}

}  // namespace moesaic::record
