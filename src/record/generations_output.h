#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "record/generations.h"
#include "record/part_files.h"

namespace moesaic::record {

/// The continuations of neighbouring documents, and their texts where there is a tokenizer.
struct GenerationsPart {
  std::vector<Continuation> continuations;
  std::vector<std::optional<std::string>> texts;
};

/// Where the continuations of a corpus go: X.h5 and X.jsonl, and until both are there parts in
/// X.h5.parts/, each an .h5 and a .jsonl, of which the .h5 comes last. One rank calls prepare and
/// finish.
class GenerationsOutput {
 public:
  GenerationsOutput(const std::filesystem::path& path, std::int64_t parts,
                    GenerationsHeader header);

  const std::filesystem::path& folder() const { return parts_.folder(); }
  std::filesystem::path part(std::int64_t i) const { return parts_.part(i); }
  const std::filesystem::path& lines() const { return lines_; }  // X.jsonl

  /// Makes the folder; sets aside, with a notice, what other models or settings left. Throws
  /// kCannotCreate.
  void prepare() const;
  /// Whether both files are there already, of this fingerprint.
  bool is_finished() const;
  std::vector<std::uint8_t> parts_done() const { return parts_.done(); }
  /// The last batch of the trace in these parts; 0 if there is none.
  std::int64_t last_trace_step() const;

  void write_part(std::int64_t i, const GenerationsPart& part, std::int64_t trace_step) const;
  /// When all parts are there: the two files, made from them, which are not needed after that.
  /// Returns the totals.
  GenerationTotals finish() const;
  /// The totals that the finished file holds.
  GenerationTotals totals() const;
  /// Once both files are there, and nobody holds the lock of the folder.
  void remove_parts() const { parts_.remove(); }

 private:
  std::filesystem::path lines_of(std::int64_t i) const;
  GenerationTotals join() const;
  void join_lines() const;

  std::filesystem::path path_, lines_;
  GenerationsHeader header_;
  PartFiles parts_;
};

}  // namespace moesaic::record
