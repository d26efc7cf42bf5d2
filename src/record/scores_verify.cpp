#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "files/durable.h"
#include "files/hdf5/thread.h"
#include "files/problems.h"
#include "record/scores.h"

namespace moesaic::record {
namespace {

namespace fs = std::filesystem;

struct Table {
  std::vector<std::int64_t> offsets, tokens;
  std::vector<double> logprob;
  std::vector<std::uint8_t> greedy;
  std::vector<std::string> id;
};

Table read_table(const files::Hdf5File& file) {
  return {file.read_all<std::int64_t>("/documents/offsets"),
          file.read_all<std::int64_t>("/documents/tokens"),
          file.read_all<double>("/documents/logprob"),
          file.read_all<std::uint8_t>("/documents/greedy"), file.read_strings("/documents/id")};
}

// Whether every column has a row for each document and the offsets tile the tokens.
bool check_rows(const Table& table, std::int64_t scored, files::Problems& problems) {
  const std::size_t documents = table.tokens.size();
  if (table.offsets.size() != documents + 1 || table.logprob.size() != documents ||
      table.greedy.size() != documents || table.id.size() != documents) {
    problems.push_back(
        fmt::format("/documents: the columns differ in length ({} tokens, {} "
                    "offsets, {} logprob, {} greedy, {} id)",
                    documents, table.offsets.size(), table.logprob.size(), table.greedy.size(),
                    table.id.size()));
    return false;
  }
  for (std::size_t d = 0; d < documents; ++d) {
    if (table.tokens[d] < 0 || table.offsets[d + 1] - table.offsets[d] != table.tokens[d]) {
      problems.push_back(
          fmt::format("/documents: document {} has {} tokens, its offsets are {} "
                      "and {}",
                      d, table.tokens[d], table.offsets[d], table.offsets[d + 1]));
      return false;
    }
  }
  if (table.offsets.front() != 0 || table.offsets.back() != scored) {
    problems.push_back(fmt::format("/documents/offsets: from {} to {}, but {} tokens are scored",
                                   table.offsets.front(), table.offsets.back(), scored));
    return false;
  }
  return true;
}

// The sums of the documents follow from their tokens.
void check_sums(const files::Hdf5File& file, const Table& table, files::Problems& problems) {
  for (std::size_t d = 0; d < table.tokens.size(); ++d) {
    std::vector<float> values(static_cast<std::size_t>(table.tokens[d]));
    if (!values.empty()) {
      file.read<float>("/tokens/logprob", {table.offsets[d]}, {table.tokens[d]}, values);
    }
    double sum = 0.0;
    for (const float value : values) {
      sum += static_cast<double>(value);
    }
    const bool off = std::any_of(values.begin(), values.end(),
                                 [](float p) { return !std::isfinite(p) || p > 1e-4F; });
    if (off || std::abs(sum - table.logprob[d]) > 1e-6 * (1.0 + std::abs(sum))) {
      problems.push_back(fmt::format(
          "/documents: document {} has the log-probability {}, its {} tokens sum to {}{}", d,
          table.logprob[d], table.tokens[d], sum, off ? " (some are no log-probability)" : ""));
      return;
    }
  }
}

void check_totals(const ScoreTotals& totals, const Table& table, files::Problems& problems) {
  double sum = 0.0;
  for (const double logprob : table.logprob) {
    sum += logprob;
  }
  const std::int64_t tokens = table.offsets.back();
  if (totals.tokens != tokens || totals.documents != std::ssize(table.tokens) ||
      std::abs(totals.logprob - sum) > 1e-6 * (1.0 + std::abs(sum))) {
    problems.push_back(fmt::format(
        "attributes: {} tokens in {} documents of log-probability {}, "
        "but the file has {} in {} of {}",
        totals.tokens, totals.documents, totals.logprob, tokens, table.tokens.size(), sum));
  }
}

// What was compared with a reference: columns as long as the others, whose sums the attributes are.
void check_reference(const files::Hdf5File& file, const ReferenceTotals& totals,
                     std::int64_t tokens, files::Problems& problems) {
  constexpr std::int64_t kBlock = std::int64_t{1} << 20U;
  for (const char* name : {"/tokens/reference_logprob", "/tokens/divergence", "/tokens/agrees"}) {
    if (const std::int64_t length = file.extents(name).at(0); length != tokens) {
      problems.push_back(fmt::format("{}: has {} of {} tokens", name, length, tokens));
      return;
    }
  }
  ReferenceTotals sums;
  for (std::int64_t begin = 0; begin < tokens; begin += kBlock) {
    sums.add(read_token_scores(file, true, begin, std::min(kBlock, tokens - begin)));
  }
  const auto differ = [](double a, double b) {
    return !(std::abs(a - b) <= 1e-6 * (1.0 + std::abs(b)));
  };
  if (differ(totals.logprob, sums.logprob) || differ(totals.divergence, sums.divergence) ||
      differ(totals.largest, sums.largest) || totals.agreeing != sums.agreeing) {
    problems.push_back(fmt::format(
        "attributes: a reference of log-probability {} and divergence {}, at most {}, that agrees "
        "at {} tokens; but the file has {}, {}, {} and {}",
        totals.logprob, totals.divergence, totals.largest, totals.agreeing, sums.logprob,
        sums.divergence, sums.largest, sums.agreeing));
  }
}

// Sums of squares, divergences and counts.
void check_details(const ReferenceDetails& details, files::Problems& problems) {
  const auto check = [&](const char* name, const std::vector<double>& values, bool counts) {
    const auto wrong = [&](double value) {
      return !std::isfinite(value) || value < 0.0 || (counts && value != std::floor(value));
    };
    const auto at = std::find_if(values.begin(), values.end(), wrong);
    if (at != values.end()) {
      problems.push_back(fmt::format("{}: value {} is {}, which is no {}", name,
                                     at - values.begin(), *at, counts ? "count" : "such sum"));
    }
  };
  check("/layers/divergence", details.layers, false);
  check("/experts/tokens", details.expert_tokens, true);
  check("/experts/squares", details.expert_squares, false);
  check("/experts/errors", details.expert_errors, false);
}

files::Problems verify_file(const fs::path& path) {
  files::Problems problems;
  files::note(problems, [&] {
    const files::Hdf5File file = files::Hdf5File::open(path);
    const ScoresSummary summary = scores_summary(file);
    const Table table = read_table(file);
    if (check_rows(table, file.extents("/tokens/logprob").at(0), problems)) {
      check_sums(file, table, problems);
      check_totals(summary.totals, table, problems);
      if (!summary.header.reference.empty()) {
        check_reference(file, summary.totals.reference, table.offsets.back(), problems);
        check_details(summary.totals.reference.details, problems);
      }
    }
  });
  for (std::string& problem : problems) {
    if (!problem.starts_with(path.string())) {
      problem.insert(0, path.string() + ": ");
    }
  }
  return problems;
}

files::Problems verify_folder(const fs::path& folder) {
  const Json manifest = Json::parse_or_null(files::read_whole(folder / "scores.json"));
  if (!manifest.is_object() || !manifest.contains("parts") || !manifest.contains("fingerprint")) {
    return {(folder / "scores.json").string() + ": is damaged: run score again"};
  }
  files::Problems problems;
  ScoreTotals totals;
  for (const auto& part : manifest["parts"]) {
    const fs::path file = folder / part.get<std::string>();
    const files::Problems of_part = verify_file(file);
    problems.insert(problems.end(), of_part.begin(), of_part.end());
    const std::optional<ScoresSummary> summary = read_scores_summary(file);
    if (summary) {
      totals.add(summary->totals);
      if (summary->header.fingerprint != manifest["fingerprint"]) {
        problems.push_back(file.string() +
                           ": is of another model, corpus or version of the "
                           "program than scores.json: run score again");
      }
    }
  }
  if (manifest.value("documents", std::int64_t{-1}) != totals.documents ||
      manifest.value("tokens", std::int64_t{-1}) != totals.tokens) {
    problems.push_back(fmt::format(
        "{}: promises {} documents, the parts hold {}", (folder / "scores.json").string(),
        manifest.value("documents", std::int64_t{-1}), totals.documents));
  }
  return problems;
}

}  // namespace

std::vector<std::string> verify_scores(const fs::path& path) {
  const bool folder = fs::is_directory(path);
  if (folder && !fs::exists(path / "scores.json")) {
    return {path.string() + ": has no scores.json: the scores are unfinished, run score again"};
  }
  return files::hdf5_run([&] {
    if (folder || path.filename() == "scores.json") {
      return verify_folder(folder ? path : path.parent_path());
    }
    return verify_file(path);
  });
}

}  // namespace moesaic::record
