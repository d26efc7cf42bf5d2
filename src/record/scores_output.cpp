#include "record/scores_output.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/host.h"
#include "base/json.h"
#include "files/durable.h"
#include "files/hdf5/thread.h"
#include "files/problems.h"

namespace moesaic::record {
namespace {

namespace fs = std::filesystem;

std::optional<ScoresSummary> summary_of(const fs::path& file) {
  return files::hdf5_run([&] { return read_scores_summary(file); });
}

std::optional<std::string> fingerprint_of(const fs::path& file) {
  const std::optional<ScoresSummary> summary = summary_of(file);
  return summary ? std::optional(summary->header.fingerprint) : std::nullopt;
}

}  // namespace

ScoresOutput::ScoresOutput(const fs::path& path, std::int64_t shards, ScoresHeader header)
    : path_(path),
      header_(std::move(header)),
      one_file_(path.extension() == ".h5"),
      parts_(one_file_ ? fs::path(path.string() + ".parts") : path, "scores", shards,
             header_.fingerprint, fingerprint_of) {}

void ScoresOutput::prepare(const std::vector<std::int64_t>& shards, bool first_task) const {
  if (one_file_ && fs::is_directory(path_)) {
    throw Error(Exit::kCannotCreate,
                fmt::format("{}: is a folder: remove it or name another score.output",
                            fs::absolute(path_).string()));
  }
  parts_.make_folder();
  for (const std::int64_t shard : shards) {
    parts_.drop_stale(part(shard));
    if (!fits(begun(shard))) {
      files::remove_file(begun(shard));
    }
  }
  if (one_file_) {
    parts_.drop_stale(path_);
  }
  if (first_task) {
    parts_.drop_other_counts();
  }
}

// A beginning that the next job of these settings goes on from, or none at all.
bool ScoresOutput::fits(const fs::path& begun) const {
  const auto windows = files::unless_damaged([&]() -> std::optional<std::int64_t> {
    return files::is_there(begun)
               ? files::hdf5_run([&] { return read_begun(files::Hdf5File::open(begun)).windows; })
               : header_.windows;
  });
  return windows == header_.windows && (!files::is_there(begun) || parts_.is_current(begun));
}

bool ScoresOutput::is_finished() const { return one_file_ && parts_.is_current(path_); }

std::int64_t ScoresOutput::last_trace_step(const std::vector<std::int64_t>& shards) const {
  std::int64_t last = 0;
  for (const std::int64_t shard : shards) {
    for (const fs::path& file : {part(shard), begun(shard)}) {
      if (const std::optional<ScoresSummary> summary = summary_of(file)) {
        last = std::max(last, summary->trace_step);
      }
    }
  }
  return last;
}

ScoreTotals ScoresOutput::totals(const std::vector<std::int64_t>& shards) const {
  if (is_finished()) {
    return summary_of(path_)->totals;
  }
  ScoreTotals totals;
  for (const std::int64_t shard : shards) {
    if (const std::optional<ScoresSummary> summary = summary_of(part(shard))) {
      totals.add(summary->totals);
    }
  }
  return totals;
}

void ScoresOutput::write_manifest(const ScoreTotals& totals) const {
  Json parts = Json::array();
  for (std::int64_t shard = 0; shard < parts_.count(); ++shard) {
    parts.push_back(part(shard).filename().string());
  }
  Json manifest = {{"schema", kScoresSchema},
                   {"version", kScoresVersion},
                   {"model", header_.model},
                   {"fingerprint", header_.fingerprint},
                   {"documents", totals.documents},
                   {"tokens", totals.tokens},
                   {"perplexity", totals.perplexity()},
                   {"bits_per_byte", totals.bits_per_byte()},
                   {"parts", parts}};
  if (!header_.reference.empty()) {
    manifest["reference"] = header_.reference;
    manifest["reference_perplexity"] = std::exp(-totals.per_token(totals.reference.logprob));
    manifest["divergence_mean"] = totals.per_token(totals.reference.divergence);
    manifest["divergence_max"] = totals.reference.largest;
    manifest["agreement"] = totals.per_token(static_cast<double>(totals.reference.agreeing));
  }
  // Tasks of an array that end together must not write into one temporary file.
  const fs::path mine = path_ / fmt::format("scores.json.{}.{}", host_name(), ::getpid());
  files::write_whole(mine, manifest.dump(2) + "\n");
  files::publish(mine, path_ / "scores.json");
}

ScoreTotals ScoresOutput::finish() const {
  std::vector<fs::path> parts;
  for (std::int64_t shard = 0; shard < parts_.count(); ++shard) {
    parts.push_back(part(shard));
  }
  if (!one_file_) {
    ScoreTotals totals;
    for (const fs::path& file : parts) {
      totals.add(summary_of(file).value().totals);
    }
    write_manifest(totals);
    return totals;
  }
  return files::hdf5_run([&] { return join_scores(parts, path_, header_); });
}

void ScoresOutput::remove_parts() const {
  if (one_file_) {
    parts_.remove();
  }
}

}  // namespace moesaic::record
