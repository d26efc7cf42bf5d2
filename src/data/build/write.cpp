#include "data/build/write.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "base/progress_line.h"
#include "comm/stop.h"
#include "files/hdf5/thread.h"

namespace moesaic::data {
namespace {

using config::Tri;

/// Reads planned documents in order, and each file once.
class PlannedReader {
 public:
  PlannedReader(const std::vector<text::InputFile>& files, const config::Tokenize& config)
      : files_(files), config_(config) {}

  text::TextDocument read(const PlannedDocument& planned) {
    const text::InputFile& file = files_[static_cast<std::size_t>(planned.file)];
    if (planned.file != open_file_) {
      reader_.emplace(open_documents(file, config_));
      open_file_ = planned.file;
    }
    reader_->skip_to({planned.line, planned.offset});
    text::TextDocument document;
    if (!reader_->next(document) || document.place.line != planned.line) {
      throw Error(Exit::kIoError, fmt::format("{} changed while it was read: let nothing write to "
                                              "it, and run again",
                                              std::filesystem::absolute(file.path).string()));
    }
    return document;
  }

 private:
  const std::vector<text::InputFile>& files_;
  const config::Tokenize& config_;
  std::optional<text::DocumentReader> reader_;
  std::int64_t open_file_ = -1;
};

void append(std::vector<std::int32_t>& tokens, const std::vector<std::int32_t>& more) {
  tokens.insert(tokens.end(), more.begin(), more.end());
}

void encode_pair(const text::TextDocument& document, const text::Tokenizer& tokenizer,
                 DocumentRecord& record) {
  if (document.context.empty()) {
    if (record.tokens.empty()) {
      const std::int64_t start = tokenizer.bos_id() >= 0 ? tokenizer.bos_id() : tokenizer.eos_id();
      if (start < 0) {
        throw Error(Exit::kBadData,
                    fmt::format("document '{}' has an empty context, and the tokenizer has neither "
                                "bos nor eos to stand for it",
                                document.id));
      }
      record.tokens.push_back(static_cast<std::int32_t>(start));
    }
    record.context = std::ssize(record.tokens);
    append(record.tokens, tokenizer.encode(document.text));
    return;
  }
  // Encoded as one text, and cut where the context alone would end.
  const auto whole = tokenizer.encode(document.context + document.text);
  const auto given = std::min(tokenizer.encode(document.context).size(), whole.size());
  record.context = std::ssize(record.tokens) + static_cast<std::int64_t>(given);
  append(record.tokens, whole);
}

/// The ranges of tokens that are marked.
std::vector<TokenRange> runs_of(const std::vector<std::uint8_t>& inside) {
  std::vector<TokenRange> runs;
  for (std::size_t i = 0; i < inside.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i);
    if (inside[i] != 0 && i > 0 && inside[i - 1] != 0) {
      ++runs.back().end;
    } else if (inside[i] != 0) {
      runs.push_back({at, at + 1});
    }
  }
  return runs;
}

/// A document that names its targets.
void encode_spans(const text::TextDocument& document, const text::Tokenizer& tokenizer, Tri bos,
                  Tri eos, DocumentRecord& record) {
  std::vector<TokenRange> spans;
  if (document.ids) {
    record.tokens = *document.ids;
    for (const text::TextRange& range : *document.spans) {
      spans.push_back({range.begin, range.end});
    }
  } else {
    text::Tokenizer::Marked marked = tokenizer.encode_marked(document.text, *document.spans);
    record.tokens = std::move(marked.tokens);
    spans = runs_of(marked.inside);
  }
  const bool begun = !record.tokens.empty() && record.tokens.front() == tokenizer.bos_id();
  if (bos == Tri::kOn && !begun) {
    record.tokens.insert(record.tokens.begin(), static_cast<std::int32_t>(tokenizer.bos_id()));
    for (TokenRange& span : spans) {
      span = {span.begin + 1, span.end + 1};
    }
  }
  const bool ended = !record.tokens.empty() && record.tokens.back() == tokenizer.eos_id();
  if (eos == Tri::kOn && !ended && !document.prompt) {
    const std::int64_t end = std::ssize(record.tokens);
    record.tokens.push_back(static_cast<std::int32_t>(tokenizer.eos_id()));
    if (!spans.empty() && spans.back().end == end) {
      ++spans.back().end;
    }
  }
  record.context = spans.empty() ? std::ssize(record.tokens) : spans.front().begin;
  record.spans = std::move(spans);
}

/// Writes this rank's shards of one corpus, one after the other.
class CorpusWriter {
 public:
  CorpusWriter(const WriteRequest& request, std::int64_t corpus, int rank, int ranks)
      : request_(request), corpus_(corpus) {
    const std::int64_t count = shards();
    const auto writer = [&](std::int64_t shard) {
      return shard < count ? writer_of(request.plan, corpus, shard, ranks) : ranks;
    };
    while (writer(shard_) < rank) {
      ++shard_;
    }
    end_ = shard_;
    while (writer(end_) == rank) {
      ++end_;
    }
  }

  /// Groups are numbered in each shard from 1.
  void add(const PlannedDocument& planned, DocumentRecord& record) {
    finish_before(planned.shard);
    if (planned.group_line >= 0) {
      const std::pair group{planned.file, planned.group_line};
      groups_ += group != last_group_ ? 1 : 0;
      last_group_ = group;
      record.group = groups_;
    }
    writer().add(record);
  }
  std::vector<WrittenShard> finish() {
    finish_before(end_);
    return std::move(written_);
  }

 private:
  std::int64_t shards() const {
    return request_.plan.corpora[static_cast<std::size_t>(corpus_)].shards;
  }
  ShardWriter& writer();
  /// Ends the shards before this one; without documents they are empty.
  void finish_before(std::int64_t shard) {
    for (; shard_ < shard; ++shard_) {
      written_.push_back({corpus_, shard_, writer().finish()});
      writer_.reset();
      groups_ = 0;
    }
  }

  const WriteRequest& request_;
  const std::int64_t corpus_;
  std::int64_t shard_ = 0, end_ = 0;  // the one that is written, and after the last
  std::optional<ShardWriter> writer_;
  std::int64_t groups_ = 0;                                   // of the shard so far
  std::pair<std::int64_t, std::int64_t> last_group_{-1, -1};  // its file and first line
  std::vector<WrittenShard> written_;
};

ShardWriter& CorpusWriter::writer() {
  if (!writer_) {
    const text::Tokenizer& tokenizer = request_.tokenizer;
    ShardHeader header;
    header.vocab_size = tokenizer.vocab_size();
    header.vocab_sha256 = tokenizer.sha256();
    header.tokenizer = tokenizer.file_name().empty() ? "byte" : tokenizer.file_name();
    header.task_names = request_.task_names;
    header.eos_id = tokenizer.eos_id();
    header.bos_id = tokenizer.bos_id();
    header.shard_index = shard_;
    header.shard_count = shards();
    header.spans = request_.spans;
    const auto file = request_.folders[static_cast<std::size_t>(corpus_)] /
                      shard_file_name(request_.name, shard_, header.shard_count);
    writer_.emplace(file, header, request_.config.compress);
  }
  return *writer_;
}

/// On the HDF5 thread.
std::vector<WrittenShard> write_all(const WriteRequest& request, int rank, int ranks) {
  const auto& documents = request.plan.documents;
  std::vector<CorpusWriter> writers;
  for (std::size_t c = 0; c < request.plan.corpora.size(); ++c) {
    writers.emplace_back(request, static_cast<std::int64_t>(c), rank, ranks);
  }
  PlannedReader reader(request.files, request.config);
  ProgressLine progress;
  std::size_t done = 0;
  for (const PlannedDocument& planned : documents) {
    comm::check_stop("writing shards");
    DocumentRecord record = encode_document(reader.read(planned), request.tokenizer,
                                            request.config.bos, request.config.eos);
    record.task = static_cast<std::uint8_t>(planned.task);
    writers[static_cast<std::size_t>(planned.corpus)].add(planned, record);
    progress.show(
        fmt::format("writing shards: {} of {} documents (rank 0)", ++done, documents.size()));
  }
  std::vector<WrittenShard> written;
  for (CorpusWriter& writer : writers) {
    const std::vector<WrittenShard> more = writer.finish();
    written.insert(written.end(), more.begin(), more.end());
  }
  return written;
}

}  // namespace

DocumentRecord encode_document(const text::TextDocument& document, const text::Tokenizer& tokenizer,
                               Tri bos, Tri eos) {
  DocumentRecord record;
  record.id = document.id;
  record.bytes = bytes_of(document, &tokenizer);
  record.weight = document.weight;
  if (document.spans) {
    encode_spans(document, tokenizer, bos, eos, record);
    return record;
  }
  if (bos == Tri::kOn) {
    record.tokens.push_back(static_cast<std::int32_t>(tokenizer.bos_id()));
  }
  if (document.pair) {
    encode_pair(document, tokenizer, record);
  } else {
    append(record.tokens, tokenizer.encode(document.text));
  }
  if (eos == Tri::kOn || (eos == Tri::kAuto && !document.pair)) {
    record.tokens.push_back(static_cast<std::int32_t>(tokenizer.eos_id()));
  }
  return record;
}

std::vector<WrittenShard> write_shards(const WriteRequest& request, int rank, int ranks) {
  return files::hdf5_run([&] { return write_all(request, rank, ranks); });
}

std::vector<std::vector<ShardInfo>> gather_shards(const std::vector<WrittenShard>& written,
                                                  const WriteRequest& request,
                                                  const comm::Communicator& world) {
  Json mine = Json::array();
  for (const WrittenShard& each : written) {
    mine.push_back({each.corpus, each.shard, each.info.file.filename().string(), each.info.bytes,
                    each.info.tokens, each.info.documents, each.info.sha256, each.info.version,
                    each.info.targets, each.info.without_targets});
  }
  std::vector<std::vector<ShardInfo>> shards;
  for (const CorpusPlan& plan : request.plan.corpora) {
    shards.emplace_back(static_cast<std::size_t>(plan.shards));
  }
  for (const std::string& text : world.gather(mine.dump(), 0)) {
    for (const auto& entry : Json::parse(text)) {
      auto& shard = shards[entry[0].get<std::size_t>()][entry[1].get<std::size_t>()];
      shard.file = request.folders[entry[0].get<std::size_t>()] / entry[2].get<std::string>();
      shard.bytes = entry[3].get<std::int64_t>();
      shard.tokens = entry[4].get<std::int64_t>();
      shard.documents = entry[5].get<std::int64_t>();
      shard.sha256 = entry[6].get<std::string>();
      shard.version = entry[7].get<std::int64_t>();
      shard.targets = entry[8].get<std::int64_t>();
      shard.without_targets = entry[9].get<std::int64_t>();
    }
  }
  return shards;
}

}  // namespace moesaic::data
