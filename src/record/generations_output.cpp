#include "record/generations_output.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "base/log.h"
#include "files/descriptor.h"
#include "files/durable.h"
#include "files/hdf5/thread.h"

namespace moesaic::record {
namespace {

namespace fs = std::filesystem;

std::optional<GenerationsSummary> summary_of(const fs::path& file) {
  return files::hdf5_run([&] { return read_generations_summary(file); });
}

std::optional<std::string> fingerprint_of(const fs::path& file) {
  const std::optional<GenerationsSummary> summary = summary_of(file);
  return summary ? std::optional(summary->header.fingerprint) : std::nullopt;
}

fs::path with_ending(fs::path path, const char* ending) { return path.replace_extension(ending); }

std::int64_t widest_id(std::span<const Continuation> continuations) {
  std::size_t width = 1;
  for (const Continuation& continuation : continuations) {
    width = std::max(width, continuation.id.size());
  }
  return static_cast<std::int64_t>(width);
}

}  // namespace

GenerationsOutput::GenerationsOutput(const fs::path& path, std::int64_t parts,
                                     GenerationsHeader header)
    : path_(path),
      lines_(with_ending(path, ".jsonl")),
      header_(std::move(header)),
      parts_(path.string() + ".parts", "generations", parts, header_.fingerprint, fingerprint_of) {}

fs::path GenerationsOutput::lines_of(std::int64_t i) const {
  return with_ending(part(i), ".jsonl");
}

void GenerationsOutput::prepare() const {
  for (const fs::path& file : {path_, lines_}) {
    if (fs::is_directory(file)) {
      throw Error(Exit::kCannotCreate,
                  fmt::format("{}: is a folder: remove it or name another generate.output",
                              fs::absolute(file).string()));
    }
  }
  // Texts are of this model and corpus only where the file beside them is.
  if (!parts_.is_current(path_) && fs::exists(lines_)) {
    const fs::path other = files::set_aside(lines_);
    log::info(fmt::format("{} belongs to no such continuations: it is now {}", lines_.string(),
                          other.string()));
  }
  parts_.drop_stale(path_);
  parts_.make_folder();
  for (std::int64_t i = 0; i < parts_.count(); ++i) {
    parts_.drop_stale(part(i));
  }
  parts_.drop_other_counts();
}

bool GenerationsOutput::is_finished() const {
  return parts_.is_current(path_) && fs::exists(lines_);
}

std::int64_t GenerationsOutput::last_trace_step() const {
  std::int64_t last = 0;
  for (std::int64_t i = 0; i < parts_.count(); ++i) {
    if (const std::optional<GenerationsSummary> summary = summary_of(part(i))) {
      last = std::max(last, summary->trace_step);
    }
  }
  return last;
}

void GenerationsOutput::write_part(std::int64_t i, const GenerationsPart& part,
                                   std::int64_t trace_step) const {
  std::string lines;
  for (std::size_t d = 0; d < part.texts.size(); ++d) {
    lines += text_line(part.continuations[d], part.texts[d]);
  }
  files::write_whole(lines_of(i), lines);
  files::hdf5_run([&] {
    GenerationsWriter writer(this->part(i), widest_id(part.continuations));
    writer.add(part.continuations);
    writer.finish(header_, trace_step);
  });
}

GenerationTotals GenerationsOutput::join() const {
  std::int64_t width = 1;
  for (std::int64_t i = 0; i < parts_.count(); ++i) {
    width = std::max(width, files::Hdf5File::open(part(i)).string_width("/documents/id"));
  }
  GenerationsWriter joined(path_, width);
  for (std::int64_t i = 0; i < parts_.count(); ++i) {
    joined.add(read_generations(part(i)));
  }
  return joined.finish(header_, last_trace_step());
}

void GenerationsOutput::join_lines() const {
  const fs::path temporary = lines_.string() + ".tmp";
  files::Descriptor joined(
      ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  bool written = joined.valid();
  for (std::int64_t i = 0; written && i < parts_.count(); ++i) {
    const std::string lines = files::read_whole(lines_of(i));
    written = files::write_all(joined, std::as_bytes(std::span(lines))) >= 0;
  }
  if (!written || joined.close() != 0) {
    files::fail_write(temporary, "write", errno);
  }
  files::publish(temporary, lines_);
}

GenerationTotals GenerationsOutput::finish() const {
  const GenerationTotals totals = files::hdf5_run([&] { return join(); });
  join_lines();
  return totals;
}

GenerationTotals GenerationsOutput::totals() const { return summary_of(path_).value().totals; }

}  // namespace moesaic::record
