#include <fmt/format.h>

#include <algorithm>
#include <optional>

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

void show(const std::vector<data::CorpusInfo>& corpora, const data::ShardPlan& plan,
          std::int64_t duplicates, std::int64_t skipped) {
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
                                       corpora[0].vocab_size, duplicates, skipped));
  std::vector<std::string> manifests;
  manifests.reserve(corpora.size());
  for (const data::CorpusInfo& info : corpora) {
    manifests.push_back(info.manifest.string());
  }
  log::print("made " + join(manifests, " "));
}

/// Collective over world: writes everything and shows the table.
void write_corpora(const data::WriteRequest& request, const std::string& print,
                   std::int64_t duplicates, std::int64_t skipped, const Communicator& world) {
  on_root(world, "prepare the output",
          [&] { at_start([&] { data::prepare_folders(request.folders, request.tokenizer); }); });
  std::vector<data::WrittenShard> written;
  world.together("write the shards",
                 [&] { written = data::write_shards(request, world.rank(), world.size()); });
  auto shards = data::gather_shards(written, request, world);
  on_root(world, "write the manifest", [&] {
    show(data::publish_manifests(request, std::move(shards), print), request.plan, duplicates,
         skipped);
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
    scan = data::scan_files(files, owner, world.rank(), wanted, tokenizer ? 0 : data::kSampleBytes);
  });
  data::agree_on_tasks(scan, wanted, world);
  const std::string print = data::fingerprint(scan, data::settings_of(wanted, tokenizer), world);
  const auto folders = folders_of(wanted);
  const std::string name = name_of(wanted);
  const std::int64_t skipped = world.all_reduce(scan.skipped, comm::Reduce::kSum);
  const std::int64_t text = world.all_reduce(bytes_of(scan), comm::Reduce::kSum);
  std::int64_t done = 0;
  world.together("look at the output", [&] {
    data::check_task_count(scan.task_names);
    if (text == 0) {
      throw Error(Exit::kNoInput,
                  fmt::format("tokenize.input: there is no text in {} ({} files, {} bad lines "
                              "skipped)",
                              join(wanted.input, ", "), files.size(), skipped));
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
  const std::int64_t duplicates = data::remove_duplicates(scan, owner, wanted.unique, world);
  if (!tokenizer) {
    tokenizer = data::train_vocabulary(scan.sample, wanted, world);
    scan.sample.clear();
  }
  const data::ShardPlan plan = data::plan_shards(scan, std::ssize(files), wanted, world);
  scan.documents.clear();
  write_corpora({files, plan, *tokenizer, scan.task_names, wanted, folders, name}, print,
                duplicates, skipped, world);
  return 0;
}

}  // namespace moesaic::cli
