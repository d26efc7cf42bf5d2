#include "io/scores_output.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "io/corpus_shard.h"
#include "io/files.h"
#include "io/hdf5_thread.h"

namespace moesaic::io {
namespace {

namespace fs = std::filesystem;

std::optional<ScoresSummary> summary_of(const fs::path& file) {
  if (!fs::exists(file)) {
    return std::nullopt;
  }
  return hdf5_run([&] { return read_scores_summary(file); });
}

bool is_part(const fs::path& file) {
  const std::string name = file.filename().string();
  return name.starts_with("scores-") && name.find("-of-") != std::string::npos &&
         file.extension() == ".h5";
}

void check_writable(const fs::path& folder) {
  if (::access(folder.c_str(), W_OK) != 0) {
    throw Error(Exit::kCannotCreate,
                fmt::format("{}: cannot write into this folder", fs::absolute(folder).string()));
  }
}

}  // namespace

ScoresOutput::ScoresOutput(const fs::path& path, std::int64_t shards, ScoresHeader header)
    : path_(path),
      shards_(shards),
      header_(std::move(header)),
      one_file_(path.extension() == ".h5") {}

fs::path ScoresOutput::parts_folder() const {
  return one_file_ ? fs::path(path_.string() + ".parts") : path_;
}

fs::path ScoresOutput::part(std::int64_t shard) const {
  return parts_folder() / shard_file_name("scores", shard, shards_);
}

void ScoresOutput::drop_stale(const fs::path& file) const {
  if (!fs::exists(file)) {
    return;
  }
  const std::optional<ScoresSummary> summary = summary_of(file);
  if (summary && summary->header.fingerprint == header_.fingerprint) {
    return;
  }
  const fs::path other = set_aside(file);
  log::info(fmt::format("{} is of another model, corpus, setting or version: it is now {}",
                        file.string(), other.string()));
}

void ScoresOutput::prepare(const std::vector<std::int64_t>& shards, bool first_task) const {
  const fs::path folder = parts_folder();
  if (one_file_ && fs::is_directory(path_)) {
    throw Error(Exit::kCannotCreate,
                fmt::format("{}: is a folder: remove it or name another score.output",
                            fs::absolute(path_).string()));
  }
  make_folder(folder);
  check_writable(folder);
  for (const std::int64_t shard : shards) {
    drop_stale(part(shard));
  }
  if (one_file_) {
    drop_stale(path_);
  }
  if (!first_task) {
    return;
  }
  std::vector<fs::path> others;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const auto ending = fmt::format("-of-{:05}.h5", shards_);
    if (is_part(entry.path()) && !entry.path().string().ends_with(ending)) {
      others.push_back(entry.path());
    }
  }
  for (const fs::path& other : others) {
    drop_stale(other);
  }
}

bool ScoresOutput::is_finished() const {
  const std::optional<ScoresSummary> summary = one_file_ ? summary_of(path_) : std::nullopt;
  return summary && summary->header.fingerprint == header_.fingerprint;
}

std::vector<std::uint8_t> ScoresOutput::parts_done() const {
  std::vector<std::uint8_t> done;
  for (std::int64_t shard = 0; shard < shards_; ++shard) {
    const std::optional<ScoresSummary> summary = summary_of(part(shard));
    done.push_back(summary && summary->header.fingerprint == header_.fingerprint ? 1 : 0);
  }
  return done;
}

std::int64_t ScoresOutput::last_trace_step(const std::vector<std::int64_t>& shards) const {
  std::int64_t last = 0;
  for (const std::int64_t shard : shards) {
    if (const std::optional<ScoresSummary> summary = summary_of(part(shard))) {
      last = std::max(last, summary->trace_step);
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
  nlohmann::json parts = nlohmann::json::array();
  for (std::int64_t shard = 0; shard < shards_; ++shard) {
    parts.push_back(part(shard).filename().string());
  }
  const nlohmann::json manifest = {{"schema", "moesaic-scores"},
                                   {"version", 1},
                                   {"model", header_.model},
                                   {"fingerprint", header_.fingerprint},
                                   {"documents", totals.documents},
                                   {"tokens", totals.tokens},
                                   {"perplexity", totals.perplexity()},
                                   {"bits_per_byte", totals.bits_per_byte()},
                                   {"parts", parts}};
  // Tasks of an array that end together must not write into one temporary file.
  const fs::path mine = path_ / fmt::format("scores.json.{}", ::getpid());
  write_whole(mine, manifest.dump(2) + "\n");
  publish(mine, path_ / "scores.json");
}

ScoreTotals ScoresOutput::finish() const {
  std::vector<fs::path> parts;
  for (std::int64_t shard = 0; shard < shards_; ++shard) {
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
  const ScoreTotals totals = hdf5_run([&] { return join_scores(parts, path_, header_); });
  fs::remove_all(parts_folder());
  return totals;
}

}  // namespace moesaic::io
