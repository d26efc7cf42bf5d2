#include "cli/judge.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <system_error>

#include "base/error.h"
#include "base/text.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/manifest.h"
#include "checkpoint/model_source.h"
#include "data/corpus/corpus.h"
#include "data/corpus/manifest.h"
#include "files/disk_space.h"
#include "files/hdf5/file.h"
#include "files/hdf5/thread.h"
#include "files/problems.h"
#include "hf/family.h"
#include "hf/folder.h"
#include "record/generations.h"
#include "record/routing_record.h"
#include "record/routing_schema.h"
#include "record/scores.h"
#include "record/trace.h"
#include "text/tokenizer.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

Verdict judge_corpus(const fs::path& path) {
  Verdict verdict{"corpus", data::verify_corpus(path)};
  if (verdict.problems.empty()) {
    const data::CorpusInfo info = data::Corpus::open(path.string()).info();
    verdict.what = fmt::format("corpus, {} shards, {} documents, {} tokens, vocabulary {}",
                               info.shards.size(), info.documents, info.tokens, info.vocab_size);
  }
  return verdict;
}

Verdict judge_checkpoint(const fs::path& path) {
  Verdict verdict{"checkpoint", checkpoint::verify_checkpoint(path)};
  if (verdict.problems.empty()) {
    const auto reader = checkpoint::CheckpointReader::open(path);
    const bool needs_base = checkpoint::needs_base(reader.state());
    verdict.what = fmt::format("checkpoint, {} tensors{}", reader.names().size(),
                               needs_base ? " of what was trained" : "");
    verdict.notes = checkpoint::lineage_text(reader.state());
    if (needs_base) {
      checkpoint::ModelSource::read(path);  // that its base is there, and the same
    }
  }
  return verdict;
}

// Every number of a tensor, some rows at a time.
void read_all(hf::HfFolder& folder, const std::string& name) {
  constexpr std::int64_t kAtOnce = std::int64_t{1} << 24U;
  std::vector<std::int64_t> extent = folder.shape(name).value();
  std::vector<std::int64_t> offset(extent.size(), 0);
  const std::int64_t rows = extent[0];
  const std::int64_t row = checkpoint::volume(extent) / std::max<std::int64_t>(rows, 1);
  const std::int64_t most = std::max<std::int64_t>(kAtOnce / std::max<std::int64_t>(row, 1), 1);
  for (; offset[0] < rows; offset[0] += most) {
    extent[0] = std::min(most, rows - offset[0]);
    std::vector<float> values(static_cast<std::size_t>(checkpoint::volume(extent)));
    folder.read(name, offset, extent, values);
  }
}

Verdict judge_folder(const fs::path& path) {
  Verdict verdict{"Hugging Face folder", {}};
  const auto attempt = [&](const auto& step) { files::note(verdict.problems, step); };
  std::optional<hf::HfTexts> texts;
  attempt([&] { texts = hf::read_hf_texts(path); });
  if (texts) {
    attempt([&] {
      auto folder = hf::HfFolder::of(path, *texts);
      folder.check();
      for (const std::string& name : folder.names()) {
        attempt([&] { read_all(folder, name); });
      }
      verdict.what = fmt::format("Hugging Face folder ({}), {} tensors",
                                 folder.config().family->name, folder.names().size());
    });
    attempt([&] { hf::special_tokens(*texts, path); });
  }
  if (text::Tokenizer::is_in(path)) {
    attempt([&] { text::Tokenizer::load(path); });
  }
  return verdict;
}

/// A folder of checkpoints: every complete one.
Verdict judge_checkpoints(const std::vector<fs::path>& checkpoints) {
  Verdict verdict{counted(std::ssize(checkpoints), "checkpoint"), {}};
  for (const fs::path& checkpoint : checkpoints) {
    const auto problems = checkpoint::verify_checkpoint(checkpoint);
    verdict.problems.insert(verdict.problems.end(), problems.begin(), problems.end());
  }
  return verdict;
}

std::string schema_of(const fs::path& file) {
  return files::hdf5_run([&]() -> std::string {
    const files::Hdf5File opened = files::Hdf5File::open(file);
    if (opened.has_attribute("/", "schema")) {
      return opened.string_attribute("/", "schema");
    }
    return opened.has("/tokens") ? "moesaic-corpus" : "";  // one that lacks what a corpus needs
  });
}

Verdict judge_trace(const fs::path& file) {
  Verdict verdict{"trace", record::verify_trace(file)};
  if (verdict.problems.empty()) {
    files::hdf5_run([&] {
      const files::Hdf5File trace = files::Hdf5File::open(file);
      const auto kinds = trace.has("/events/kind") ? trace.read_strings("/events/kind")
                                                   : std::vector<std::string>{};
      const auto empty = std::count(kinds.begin(), kinds.end(), "no_targets");
      verdict.what =
          fmt::format("trace, {} steps{}", trace.extents("/step").at(0),
                      empty > 0 ? fmt::format(", {} of the run without a target", empty) : "");
    });
  }
  return verdict;
}

Verdict judge_routing(const fs::path& file) {
  Verdict verdict{"routing record", record::verify_routing(file)};
  if (verdict.problems.empty()) {
    const auto offsets = files::hdf5_run(
        [&] { return record::read_routing_steps(files::Hdf5File::open(file)).offset; });
    verdict.what =
        fmt::format("routing record, {} steps, {} tokens", offsets.size() - 1, offsets.back());
  }
  return verdict;
}

Verdict judge_scores(const fs::path& path) { return {"scores", record::verify_scores(path)}; }

Verdict judge_file(const fs::path& file) {
  if (file.filename() == "manifest.json") {
    return judge_checkpoint(file.parent_path());
  }
  if (file.filename() == "scores.json") {
    return judge_scores(file);
  }
  if (file.extension() == ".json") {
    return judge_corpus(file);
  }
  const std::string schema = schema_of(file);
  if (schema == "moesaic-corpus") {
    return judge_corpus(file);
  }
  if (schema == "moesaic-trace") {
    return judge_trace(file);
  }
  if (schema == "moesaic-routing") {
    return judge_routing(file);
  }
  if (schema == "moesaic-generations") {
    return {"continuations", record::verify_generations(file)};
  }
  if (schema == "moesaic-scores") {
    return judge_scores(file);
  }
  throw Error(Exit::kBadData, fmt::format("its attribute 'schema' is '{}': not a file of moesaic "
                                          "that can be verified",
                                          schema));
}

/// The files that judging a path reads, besides a manifest that is named itself.
std::vector<fs::path> files_to_read(const fs::path& path) {
  if (fs::is_directory(path) || path.extension() != ".json") {
    return {path};
  }
  if (path.filename() == "manifest.json" || path.filename() == "scores.json") {
    return {path.has_parent_path() ? path.parent_path() : fs::path(".")};
  }
  std::vector<fs::path> files = {path};
  try {
    const data::CorpusInfo info = data::read_corpus_manifest(path);
    for (const data::ShardInfo& shard : info.shards) {
      files.push_back(shard.file);
    }
    files.push_back(info.tokenizer);
  } catch (const Error&) {  // is judged later
  }
  return files;
}

/// Throws unless the file or folder, if it is there, may be read.
void check_readable(const fs::path& path) {
  const int mode = fs::is_directory(path) ? R_OK | X_OK : R_OK;
  if (!path.empty() && ::access(path.c_str(), mode) != 0 && errno != ENOENT) {
    throw fs::filesystem_error("cannot be read", path, {errno, std::generic_category()});
  }
}

double checked_bytes(const fs::path& path) {
  check_readable(path);
  if (!fs::is_directory(path)) {
    return files::bytes_below(path);
  }
  double bytes = 0.0;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    std::error_code missing;
    if (entry.is_directory(missing) || entry.is_regular_file(missing)) {
      bytes += entry.is_directory(missing) ? 0.0 : files::bytes_below(entry.path());
      check_readable(entry.path());
    }
  }
  return bytes;
}

}  // namespace

Verdict judge(const fs::path& path) {
  if (!fs::is_directory(path)) {
    return judge_file(path);
  }
  if (fs::exists(path / "manifest.json")) {
    return judge_checkpoint(path);
  }
  if (fs::exists(path / "scores.json")) {
    return judge_scores(path);
  }
  if (hf::HfFolder::is_one(path)) {
    return judge_folder(path);
  }
  if (data::manifests_in(path).empty()) {
    if (const auto checkpoints = checkpoint::complete_checkpoints(path); !checkpoints.empty()) {
      return judge_checkpoints(checkpoints);
    }
    if (fs::is_empty(path)) {
      throw Error(Exit::kNoInput, "is empty: no checkpoint or corpus was completed in it");
    }
  }
  return judge_corpus(path);
}

double bytes_to_read(const std::string& path) {
  if (!fs::exists(path)) {
    throw Error(Exit::kNoInput, "there is no such file or folder");
  }
  double bytes = 0.0;
  for (const fs::path& file : files_to_read(path)) {
    bytes += checked_bytes(file);
  }
  return bytes;
}

}  // namespace moesaic::cli
