#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "record/part_files.h"
#include "record/scores.h"

namespace moesaic::record {

/// Where the scores of a corpus go: X.h5, with unfinished parts in X.h5.parts/, or a folder with
/// one file for each corpus shard and scores.json. A part is complete or absent, and is used again
/// only with the same fingerprint. One rank calls prepare and finish.
class ScoresOutput {
 public:
  ScoresOutput(const std::filesystem::path& path, std::int64_t shards, ScoresHeader header);

  std::filesystem::path part(std::int64_t shard) const { return parts_.part(shard); }
  /// What a job that was stopped amid a shard has kept of it.
  std::filesystem::path begun(std::int64_t shard) const { return part(shard).string() + ".begun"; }
  const ScoresHeader& header() const { return header_; }

  /// Makes the folders; sets aside, with a notice, what other models or settings left. first_task:
  /// also what is not a part of these shards. Throws kCannotCreate.
  void prepare(const std::vector<std::int64_t>& shards, bool first_task) const;
  /// Whether the one file is there already, of this fingerprint.
  bool is_finished() const;
  /// A flag for each shard: its part is there.
  std::vector<std::uint8_t> parts_done() const { return parts_.done(); }
  /// The last batch of the trace in these shards' parts; 0 if none is there.
  std::int64_t last_trace_step(const std::vector<std::int64_t>& shards) const;

  /// When all parts are there: the one file, made from them, or scores.json. Returns the totals.
  ScoreTotals finish() const;
  /// Once the one file is there, and nobody holds the lock of the folder.
  void remove_parts() const;
  /// The totals of these shards' parts, or of the finished file.
  ScoreTotals totals(const std::vector<std::int64_t>& shards) const;

 private:
  bool fits(const std::filesystem::path& begun) const;
  void write_manifest(const ScoreTotals& totals) const;

  std::filesystem::path path_;
  ScoresHeader header_;
  bool one_file_;
  PartFiles parts_;
};

}  // namespace moesaic::record
