#include "cli/tokenize.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/io_error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "base/utf8.h"
#include "comm/pieces.h"
#include "data/build/input.h"
#include "data/build/plan_shards.h"
#include "data/build/scan.h"
#include "data/build/vocabulary.h"
#include "data/build/write.h"
#include "data/corpus/manifest.h"
#include "files/durable.h"
#include "files/run_lock.h"
#include "text/tokenizer.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;
using comm::Communicator;

/// Collective over world: the input files as rank 0 finds them.
std::vector<text::InputFile> agree_on_files(const config::Tokenize& config,
                                            const Communicator& world) {
  std::string text;
  world.together("list the input", [&] {
    if (!world.is_root()) {
      return;
    }
    Json list = Json::array();
    const text::TextFields fields{config.text_field, config.id_field, config.task_field};
    for (const text::InputFile& file : data::list_inputs(config.input, fields)) {
      list.push_back(
          {file.path.string(), file.name, file.input, file.bytes, file.jsonl, file.packed});
    }
    text = list.to_cbor();  // paths need not be UTF-8
  });
  comm::broadcast_in_pieces(world, text, 0);
  std::vector<text::InputFile> files;
  for (const Json& entry : Json::from_cbor(text)) {
    files.push_back({entry[0].get<std::string>(), entry[1].get<std::string>(),
                     entry[2].get<std::int64_t>(), entry[3].get<std::int64_t>(),
                     entry[4].get<bool>(), entry[5].get<bool>()});
  }
  return files;
}

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

/// Whether the files of a corpus are where its manifest says, in their sizes. If not, they are made
/// again: equal text makes equal files.
bool is_whole(const fs::path& manifest) {
  try {
    const data::CorpusInfo info = data::read_corpus_manifest(manifest);
    data::check_shard_files(info);
    return info.tokenizer.empty() || fs::exists(info.tokenizer);
  } catch (const Error& error) {
    if (error.code() == Exit::kIoError) {
      throw;
    }
    log::warn(fmt::format("made again, from the same text: {}", error.what()));
    return false;
  }
}

/// Whether all of the output is there already, made from the same input. Another corpus in its
/// place is kCannotCreate.
bool is_done(const std::vector<fs::path>& folders, const std::string& print) {
  std::size_t done = 0;
  for (const fs::path& folder : folders) {
    for (const fs::path& manifest : data::manifests_in(folder)) {
      if (data::read_corpus_manifest(manifest).fingerprint != print) {
        throw Error(Exit::kCannotCreate,
                    fmt::format("{} is a corpus made from other text or with other settings: "
                                "choose another tokenize.output, or remove that folder",
                                fs::absolute(manifest).string()));
      }
      done += is_whole(manifest) ? 1 : 0;
    }
  }
  return done == folders.size();
}

std::int64_t bytes_of(const data::Scan& scan) {
  std::int64_t bytes = 0;
  for (const data::ScannedDocument& document : scan.documents) {
    bytes += document.bytes;
  }
  return bytes;
}

/// Makes the folders and puts the tokenizer's file into each.
void prepare(const std::vector<fs::path>& folders, const text::Tokenizer& tokenizer) {
  for (const fs::path& folder : folders) {
    files::make_folder(folder);
    if (!tokenizer.file_name().empty()) {
      files::write_whole(folder / tokenizer.file_name(), tokenizer.model());
    }
  }
}

std::vector<data::CorpusInfo> publish_manifests(const data::WriteRequest& request,
                                                std::vector<std::vector<data::ShardInfo>> shards,
                                                const std::string& print) {
  std::vector<data::CorpusInfo> corpora;
  for (std::size_t c = 0; c < shards.size(); ++c) {
    data::CorpusInfo info;
    info.name = request.name;
    info.manifest = request.folders[c] / (request.name + ".json");
    info.source_bytes = request.plan.corpora[c].bytes;
    info.vocab_size = request.tokenizer.vocab_size();
    info.vocab_sha256 = request.tokenizer.sha256();
    info.eos_id = request.tokenizer.eos_id();
    info.bos_id = request.tokenizer.bos_id();
    info.tokenizer = request.tokenizer.file_name();
    info.task_names = request.task_names;
    info.fingerprint = print;
    info.shards = std::move(shards[c]);
    for (const data::ShardInfo& shard : info.shards) {
      info.tokens += shard.tokens;
      info.documents += shard.documents;
    }
    data::write_corpus_manifest(info);
    corpora.push_back(info);
  }
  return corpora;
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
  world.together("prepare the output", [&] {
    if (world.is_root()) {
      at_start([&] { prepare(request.folders, request.tokenizer); });
    }
  });
  std::vector<data::WrittenShard> written;
  world.together("write the shards",
                 [&] { written = data::write_shards(request, world.rank(), world.size()); });
  auto shards = data::gather_shards(written, request, world);
  world.together("write the manifest", [&] {
    if (world.is_root()) {
      show(publish_manifests(request, std::move(shards), print), request.plan, duplicates, skipped);
    }
  });
}

}  // namespace

int tokenize(const config::Config& config, const Communicator& world) {
  const config::Tokenize& wanted = config.tokenize;
  std::optional<files::RunLock> lock;  // on rank 0
  world.together("claim the output", [&] {
    if (world.is_root()) {
      at_start([&] { lock.emplace(files::RunLock::beside(wanted.output)); });
    }
  });
  const auto files = agree_on_files(wanted, world);
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
    done = world.is_root() && is_done(folders, print) ? 1 : 0;
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
