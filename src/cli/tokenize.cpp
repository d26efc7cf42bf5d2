#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>

#include "base/error.h"
#include "base/io_error.h"
#include "base/log.h"
#include "base/text.h"
#include "base/utf8.h"
#include "cli/job.h"
#include "cli/jobs.h"
#include "data/build/plan_shards.h"
#include "data/build/publish.h"
#include "data/build/scan.h"
#include "data/build/vocabulary.h"
#include "files/run_lock.h"
#include "text/tokenizer.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;
using comm::Communicator;

std::vector<fs::path> folders_of(const config::Tokenize& config) {
  const fs::path output = config.output;
  if (config.holdout > 0.0) {
    return {output / "train", output / "heldout"};
  }
  return {output};
}

/// The corpora are named after the output folder.
std::string name_of(const config::Tokenize& config) {
  const fs::path full = fs::absolute(config.output).lexically_normal();
  return with_replacements((full.has_filename() ? full : full.parent_path()).filename().string());
}

std::int64_t bytes_of(const data::Scan& scan) {
  std::int64_t bytes = 0;
  for (const data::ScannedDocument& document : scan.documents) {
    bytes += document.bytes;
  }
  return bytes;
}

/// How many documents were read and written, over all ranks.
struct Counts {
  std::int64_t documents = 0, spans = 0, prompts = 0, with_targets = 0;
  std::int64_t skipped = 0, duplicates = 0;
};

Counts counts_of(const data::Scan& scan, const Communicator& world) {
  std::array<std::int64_t, 5> sums = {std::ssize(scan.documents), scan.spans, scan.prompts,
                                      scan.with_targets, scan.skipped};
  world.all_reduce(std::span<std::int64_t>(sums), comm::Reduce::kSum);
  return {sums[0], sums[1], sums[2], sums[3], sums[4], 0};
}

[[noreturn]] void refuse_without_targets(const config::Tokenize& config, const Counts& counts) {
  throw Error(
      Exit::kBadData,
      fmt::format("tokenize.input: none of the {} documents in {} has a target, so there is "
                  "nothing to train on: see that the template marks what the assistant "
                  "says (analysis/render_chat.py); prompts for generate have the field "
                  "'prompt' instead",
                  counts.documents, join(config.input, ", ")));
}

/// What the spans of a corpus say, for the table.
std::string targets_line(const data::CorpusInfo& info, const std::string& label) {
  std::int64_t targets = 0, without = 0;
  for (const data::ShardInfo& shard : info.shards) {
    targets += shard.targets;
    without += shard.without_targets;
  }
  return fmt::format("{}{} of {} tokens are targets ({:.1f} %), {} documents have none", label,
                     targets, info.tokens,
                     100.0 * static_cast<double>(targets) /
                         static_cast<double>(std::max<std::int64_t>(1, info.tokens)),
                     without);
}

void show(const std::vector<data::CorpusInfo>& corpora, const data::ShardPlan& plan,
          const Counts& counts) {
  const std::vector<std::string> labels = corpora.size() == 2
                                              ? std::vector<std::string>{"train", "heldout"}
                                              : std::vector<std::string>{"all"};
  std::vector<std::vector<std::string>> rows = {
      {"corpus", "shards", "documents", "text", "tokens", "bytes per token"}};
  for (std::size_t c = 0; c < corpora.size(); ++c) {
    const data::CorpusInfo& info = corpora[c];
    const double per_token = static_cast<double>(info.source_bytes) /
                             static_cast<double>(std::max<std::int64_t>(1, info.tokens));
    rows.push_back({labels[c], std::to_string(info.shards.size()), std::to_string(info.documents),
                    short_bytes(static_cast<double>(info.source_bytes)),
                    std::to_string(info.tokens), fmt::format("{:.2f}", per_token)});
  }
  const std::vector<std::string>& tasks = corpora[0].task_names;
  for (std::size_t t = 0; tasks.size() > 1 && t < tasks.size(); ++t) {
    std::string documents;
    for (const data::CorpusPlan& each : plan.corpora) {
      documents += (documents.empty() ? "" : " + ") + std::to_string(each.task_documents[t]);
    }
    rows.push_back({fmt::format("task {}", tasks[t]), "", documents});
  }
  log::print(table(rows) + fmt::format("vocabulary {}, {} duplicates removed, {} bad lines skipped",
                                       corpora[0].vocab_size, counts.duplicates, counts.skipped));
  for (std::size_t c = 0; corpora[0].spans && c < corpora.size(); ++c) {
    log::print(targets_line(corpora[c], corpora.size() == 2 ? labels[c] + ": " : ""));
  }
  std::vector<std::string> manifests;
  manifests.reserve(corpora.size());
  for (const data::CorpusInfo& info : corpora) {
    manifests.push_back(info.manifest.string());
  }
  log::print("made " + join(manifests, " "));
}

/// Collective over world: writes everything and shows the table.
void write_corpora(const data::WriteRequest& request, const std::string& print,
                   const Counts& counts, const Communicator& world) {
  on_root(world, "prepare the output",
          [&] { at_start([&] { data::prepare_folders(request.folders, request.tokenizer); }); });
  std::vector<data::WrittenShard> written;
  world.together("write the shards",
                 [&] { written = data::write_shards(request, world.rank(), world.size()); });
  auto shards = data::gather_shards(written, request, world);
  on_root(world, "write the manifest", [&] {
    std::int64_t targets = 0;
    for (const auto& corpus : shards) {
      for (const data::ShardInfo& shard : corpus) {
        targets += shard.targets;
      }
    }
    if (request.spans && targets == 0 && counts.prompts < counts.documents) {
      for (const auto& corpus : shards) {
        for (const data::ShardInfo& shard : corpus) {
          std::error_code ignored;
          fs::remove(shard.file, ignored);
        }
      }
      refuse_without_targets(request.config, counts);
    }
    show(data::publish_manifests(request, std::move(shards), print), request.plan, counts);
  });
}

}  // namespace

int tokenize(const config::Config& config, const Communicator& world) {
  const config::Tokenize& wanted = config.tokenize;
  std::optional<files::RunLock> lock;  // on rank 0
  on_root(world, "claim the output",
          [&] { at_start([&] { lock.emplace(files::RunLock::beside(wanted.output)); }); });
  const auto files = data::agree_on_files(wanted, world);
  std::optional<text::Tokenizer> tokenizer = data::open_tokenizer(wanted, world);
  const auto owner = data::owners(files, world.size());
  data::Scan scan;
  world.together("read the text", [&] {
    scan = data::scan_files(files, owner, world.rank(), wanted, tokenizer, data::kSampleBytes);
  });
  data::agree_on_tasks(scan, wanted, world);
  const std::string print = data::fingerprint(scan, data::settings_of(wanted, tokenizer), world);
  const auto folders = folders_of(wanted);
  const std::string name = name_of(wanted);
  Counts counts = counts_of(scan, world);
  const std::int64_t text = world.all_reduce(bytes_of(scan), comm::Reduce::kSum);
  std::int64_t done = 0;
  world.together("look at the output", [&] {
    data::check_task_count(scan.task_names);
    if (text == 0) {
      throw Error(Exit::kNoInput,
                  fmt::format("tokenize.input: there is no text in {} ({} files, {} bad lines "
                              "skipped)",
                              join(wanted.input, ", "), files.size(), counts.skipped));
    }
    if (counts.spans > 0 && counts.with_targets == 0 && counts.prompts < counts.documents) {
      refuse_without_targets(wanted, counts);
    }
    if (name == "tokenizer") {
      throw Error(Exit::kUsage,
                  fmt::format("tokenize.output = {}: a corpus is named after its folder, and "
                              "tokenizer.json would not be its manifest; choose another name",
                              wanted.output));
    }
    done = world.is_root() && data::is_published(folders, print) ? 1 : 0;
  });
  if (world.all_reduce(done, comm::Reduce::kMax) != 0) {
    log::print(fmt::format("{} is there already, made from the same text and settings",
                           fs::absolute(wanted.output).string()));
    return 0;
  }
  counts.duplicates = data::remove_duplicates(scan, owner, wanted.unique, world);
  if (!tokenizer) {
    tokenizer = data::train_vocabulary(scan.sample, wanted, world);
    scan.sample.clear();
  }
  const data::ShardPlan plan = data::plan_shards(scan, std::ssize(files), wanted, world);
  scan.documents.clear();
  write_corpora({files, plan, *tokenizer, scan.task_names, wanted, folders, name, counts.spans > 0},
                print, counts, world);
  return 0;
}

}  // namespace moesaic::cli
