#include "data/corpus/corpus.h"

#include <fmt/format.h>
#include <glob.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "base/error.h"
#include "base/sha256.h"
#include "base/text.h"
#include "data/corpus/manifest.h"
#include "data/corpus/shard.h"
#include "files/durable.h"
#include "files/hdf5/thread.h"

namespace moesaic::data {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kOpenShards = 16;  // bounds the memory, whatever the corpus

std::string absolute_name(const fs::path& path) {
  return fs::absolute(path).lexically_normal().string();
}

std::vector<fs::path> expand_glob(const std::string& pattern) {
  glob_t found{};
  std::vector<fs::path> files;
  errno = 0;
  const int status = glob(pattern.c_str(), GLOB_ERR, nullptr, &found);
  const int error = errno;
  if (status == 0) {
    files.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  }
  globfree(&found);
  if (status != 0 && status != GLOB_NOMATCH && error != ENOENT && error != ENOTDIR) {
    files::fail_read(pattern, error);
  }
  return files;
}

/// All shards of a corpus must have been made with one vocabulary.
void check_same_vocabulary(const ShardHeader& header, const fs::path& file, const CorpusInfo& info,
                           const fs::path& other) {
  if (header.vocab_size != info.vocab_size) {
    throw Error(
        Exit::kBadData,
        fmt::format("{} has vocab_size = {}, but {} says {}: they are of different "
                    "corpora; keep one corpus to a folder",
                    absolute_name(file), header.vocab_size, absolute_name(other), info.vocab_size));
  }
  if (!header.vocab_sha256.empty() && !info.vocab_sha256.empty() &&
      header.vocab_sha256 != info.vocab_sha256) {
    throw Error(Exit::kBadData,
                fmt::format("{} was made with vocabulary {:.12}, but {} says {:.12}: tokenize both "
                            "with the same tokenizer",
                            absolute_name(file), header.vocab_sha256, absolute_name(other),
                            info.vocab_sha256));
  }
  if (header.task_names != info.task_names) {
    throw Error(Exit::kBadData,
                fmt::format("{} and {} have different task names: open them as two corpora",
                            absolute_name(file), absolute_name(other)));
  }
}

void check_against_manifest(const ShardReader& reader, const ShardInfo& shard,
                            const CorpusInfo& info) {
  if (info.manifest.empty()) {
    return;
  }
  check_same_vocabulary(reader.header(), shard.file, info, info.manifest);
  if (reader.header().spans != info.spans) {
    throw Error(Exit::kBadData,
                fmt::format("{} has {} /documents/spans, but {} says that its shards have {}: all "
                            "of a corpus or none; run `moesaic tokenize` again",
                            absolute_name(shard.file), reader.header().spans ? "" : "no ",
                            absolute_name(info.manifest), info.spans ? "them" : "none"));
  }
  if (reader.tokens() != shard.tokens || reader.documents() != shard.documents) {
    throw Error(Exit::kBadData,
                fmt::format("{} has {} tokens in {} documents, but {} says {} in {}: run `moesaic "
                            "tokenize` again",
                            absolute_name(shard.file), reader.tokens(), reader.documents(),
                            absolute_name(info.manifest), shard.tokens, shard.documents));
  }
}

/// What tells a shard from one that was made again: sizes, and the hash of its content, or where it
/// has none its first and last tokens.
void add_content(Sha256& hash, const ShardInfo& shard, ShardReader& reader) {
  std::string text = fmt::format("{} {} {}\n", shard.bytes, shard.tokens, shard.documents);
  if (reader.has_content_sha256()) {
    text += reader.content_sha256();
  } else {
    constexpr std::int64_t kSome = 4096;
    for (const std::int64_t begin :
         {std::int64_t{0}, std::max<std::int64_t>(0, shard.tokens - kSome)}) {
      text += fmt::format("{}\n", join(reader.read(begin, std::min(kSome, shard.tokens)), " "));
    }
  }
  hash.update(std::as_bytes(std::span(text)));
}

CorpusInfo bare_info(const std::vector<fs::path>& files) {
  CorpusInfo info;
  info.name = files.front().stem().string();
  Sha256 content;
  bool knows_bytes = true;  // all of them, or the sum would be of other documents than the tokens
  for (const fs::path& file : files) {
    ShardReader reader(file);
    const ShardHeader& header = reader.header();
    if (info.shards.empty()) {
      info.vocab_size = header.vocab_size;
      info.vocab_sha256 = header.vocab_sha256;
      info.eos_id = header.eos_id;
      info.bos_id = header.bos_id;
      info.task_names = header.task_names;
      info.spans = header.spans;
      if (header.tokenizer != "byte" && !header.tokenizer.empty()) {
        info.tokenizer = file.parent_path() / fs::path(header.tokenizer).filename();
      }
    }
    check_same_vocabulary(header, file, info, files.front());
    if (header.spans != info.spans) {
      throw Error(Exit::kBadData,
                  fmt::format("of {} and {} only one has /documents/spans: all shards of a corpus "
                              "or none; open them as two corpora",
                              absolute_name(file), absolute_name(files.front())));
    }
    info.version = std::max(info.version, reader.version());
    ShardInfo shard;
    shard.file = file;
    shard.bytes = static_cast<std::int64_t>(fs::file_size(file));
    shard.tokens = reader.tokens();
    shard.documents = reader.documents();
    info.tokens += shard.tokens;
    info.documents += shard.documents;
    info.source_bytes += reader.source_bytes();
    knows_bytes = knows_bytes && reader.knows_bytes();
    add_content(content, shard, reader);
    info.shards.push_back(shard);
  }
  info.fingerprint = content.hex();
  info.source_bytes = knows_bytes ? info.source_bytes : 0;
  return info;
}

CorpusInfo with_its_shards(CorpusInfo info) {
  check_shard_files(info);
  return info;
}

}  // namespace

std::vector<std::uint8_t> join_tasks(const CorpusInfo& corpus, std::vector<std::string>& names) {
  std::vector<std::uint8_t> numbers;
  for (const std::string& name : corpus.task_names) {
    auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) {
      if (names.size() > std::numeric_limits<std::uint8_t>::max()) {
        throw Error(Exit::kBadData,
                    fmt::format("data.corpus: with {} there are more than 255 task names in all, "
                                "those of the model included: take fewer corpora at once",
                                corpus.name));
      }
      found = names.insert(names.end(), name);
    }
    numbers.push_back(static_cast<std::uint8_t>(found - names.begin()));
  }
  return numbers;
}

struct Corpus::State {
  struct OpenShard {
    std::int64_t index;
    ShardReader reader;
  };

  CorpusInfo info;
  std::vector<std::int64_t> token_begin, document_begin;  // [shards + 1], of each shard
  std::vector<std::unique_ptr<OpenShard>> open;           // the one used last is at the back

  ShardReader& shard(std::int64_t index);
  void append(TokenSpan& span, std::int64_t index, std::int64_t begin, std::int64_t count);
};

ShardReader& Corpus::State::shard(std::int64_t index) {
  const auto here = std::find_if(open.begin(), open.end(),
                                 [index](const auto& each) { return each->index == index; });
  if (here != open.end()) {
    std::rotate(here, here + 1, open.end());
    return open.back()->reader;
  }
  const ShardInfo& shard = info.shards.at(static_cast<std::size_t>(index));
  if (!info.manifest.empty()) {
    check_shard_file(info, shard);  // it may have changed since the start
  }
  auto opened = std::make_unique<OpenShard>(OpenShard{index, ShardReader(shard.file)});
  check_against_manifest(opened->reader, shard, info);
  if (open.size() == kOpenShards) {
    open.erase(open.begin());
  }
  open.push_back(std::move(opened));
  return open.back()->reader;
}

void Corpus::State::append(TokenSpan& span, std::int64_t index, std::int64_t begin,
                           std::int64_t count) {
  ShardReader& reader = shard(index);
  const DocumentRun run = reader.documents_of(begin, count);
  const auto at = static_cast<std::size_t>(index);
  const auto tokens = reader.read(begin, count);
  span.token.insert(span.token.end(), tokens.begin(), tokens.end());
  std::size_t document = 0;
  std::vector<TokenRange> targets = run.targets(0);
  for (std::int64_t position = begin; position < begin + count; ++position) {
    while (position >= run.offsets[document + 1]) {
      targets = run.targets(++document);  // over empty documents too
    }
    const std::int64_t first = run.offsets[document];
    span.document.push_back(document_begin[at] + run.first + static_cast<std::int64_t>(document));
    span.document_begin.push_back(token_begin[at] + first);
    span.target.push_back(contains(targets, position - first) ? 1 : 0);
    span.task.push_back(run.task[document]);
    span.weight.push_back(run.weight.empty() ? 1.0F : run.weight[document]);
  }
}

CorpusInfo find_corpus(const std::string& path) {
  if (files::is_folder(path)) {
    return with_its_shards(read_corpus_in(path));
  }
  if (files::is_there(path)) {
    return fs::path(path).extension() == ".json"
               ? with_its_shards(read_corpus_manifest(path))
               : files::hdf5_run([&] { return bare_info({path}); });
  }
  const auto files = expand_glob(path);
  if (files.empty()) {
    throw Error(Exit::kNoInput,
                fmt::format("no corpus at {}: name a manifest (NAME.json), the folder that "
                            "`moesaic tokenize` wrote, or shard files",
                            absolute_name(path)));
  }
  return files::hdf5_run([&] { return bare_info(files); });
}

std::string data_fingerprint(const CorpusInfo& info) {
  if (!info.fingerprint.empty()) {
    return info.fingerprint;
  }
  std::string text =
      fmt::format("{} {} {} {}", info.vocab_size, info.vocab_sha256, info.bos_id, info.eos_id);
  for (const ShardInfo& shard : info.shards) {
    text += fmt::format("\n{} {} {} {}", shard.bytes, shard.tokens, shard.documents, shard.sha256);
  }
  return Sha256::of(std::as_bytes(std::span(text)));
}

Corpus::Corpus(CorpusInfo info) : state_(std::make_unique<State>()) {
  state_->info = std::move(info);
  state_->token_begin.push_back(0);
  state_->document_begin.push_back(0);
  for (const ShardInfo& shard : state_->info.shards) {
    state_->token_begin.push_back(state_->token_begin.back() + shard.tokens);
    state_->document_begin.push_back(state_->document_begin.back() + shard.documents);
  }
}

Corpus::Corpus(Corpus&&) noexcept = default;
Corpus& Corpus::operator=(Corpus&&) noexcept = default;
Corpus::~Corpus() = default;

const CorpusInfo& Corpus::info() const { return state_->info; }

TokenSpan Corpus::read(std::int64_t begin, std::int64_t count) {
  const auto& starts = state_->token_begin;
  require(begin >= 0 && count >= 0 && begin + count <= starts.back(),
          fmt::format("tokens [{}, {}) are not in a corpus of {}", begin, begin + count,
                      starts.back()));
  TokenSpan span;
  auto shard = std::upper_bound(starts.begin(), starts.end(), begin) - starts.begin() - 1;
  const std::int64_t end = begin + count;
  while (begin < end) {
    const auto at = static_cast<std::size_t>(shard);
    const std::int64_t part = std::min(end, starts[at + 1]) - begin;
    if (part > 0) {
      state_->append(span, shard, begin - starts[at], part);
    }
    begin += part;
    ++shard;
  }
  return span;
}

ShardDocuments Corpus::documents(std::int64_t shard) {
  ShardReader& reader = state_->shard(shard);
  ShardDocuments table = reader.table();
  table.id = reader.ids();
  return table;
}

const ShardDocuments& Corpus::document_table(std::int64_t shard) {
  return state_->shard(shard).table();
}

std::vector<std::int32_t> Corpus::shard_tokens(std::int64_t shard, std::int64_t begin,
                                               std::int64_t count) {
  return state_->shard(shard).read(begin, count);
}

}  // namespace moesaic::data
