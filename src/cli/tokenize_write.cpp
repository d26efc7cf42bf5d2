#include "cli/tokenize_write.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "cli/progress_line.h"
#include "comm/stop.h"
#include "io/hdf5_thread.h"

namespace moesaic::cli {
namespace {

using config::Tri;

/// Reads planned documents in order, opening each file once for a run of its documents.
class PlannedReader {
 public:
  PlannedReader(const std::vector<io::InputFile>& files, const config::Tokenize& config)
      : files_(files), fields_{config.text_field, config.id_field, config.task_field} {}

  io::TextDocument read(const PlannedDocument& planned) {
    const io::InputFile& file = files_[static_cast<std::size_t>(planned.file)];
    if (planned.file != open_file_) {
      reader_.emplace(file, fields_);
      open_file_ = planned.file;
    }
    reader_->skip_to({planned.line, planned.offset});
    io::TextDocument document;
    if (!reader_->next(document) || document.place.line != planned.line) {
      throw Error(Exit::kIoError, fmt::format("{} changed while it was read: let nothing write to "
                                              "it, and run again",
                                              std::filesystem::absolute(file.path).string()));
    }
    return document;
  }

 private:
  const std::vector<io::InputFile>& files_;
  io::TextFields fields_;
  std::optional<io::DocumentReader> reader_;
  std::int64_t open_file_ = -1;
};

void append(std::vector<std::int32_t>& tokens, const std::vector<std::int32_t>& more) {
  tokens.insert(tokens.end(), more.begin(), more.end());
}

void encode_pair(const io::TextDocument& document, const io::Tokenizer& tokenizer,
                 io::DocumentRecord& record) {
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

struct ShardKey {
  std::int64_t corpus, shard;
};

io::ShardInfo write_shard(const WriteRequest& request, const ShardKey& key,
                          std::span<const PlannedDocument> documents) {
  const std::int64_t count = request.plan.corpora[static_cast<std::size_t>(key.corpus)].shards;
  io::ShardHeader header;
  header.vocab_size = request.tokenizer.vocab_size();
  header.vocab_sha256 = request.tokenizer.sha256();
  header.tokenizer = request.tokenizer.file_name().empty() ? "byte" : request.tokenizer.file_name();
  header.task_names = request.task_names;
  header.eos_id = request.tokenizer.eos_id();
  header.bos_id = request.tokenizer.bos_id();
  header.shard_index = key.shard;
  header.shard_count = count;
  const auto file = request.folders[static_cast<std::size_t>(key.corpus)] /
                    io::shard_file_name(request.name, key.shard, count);
  io::ShardWriter writer(file, header, request.config.compress);
  PlannedReader reader(request.files, request.config);
  for (const PlannedDocument& planned : documents) {
    comm::check_stop("writing shards");
    const io::TextDocument document = reader.read(planned);
    io::DocumentRecord record =
        encode_document(document, request.tokenizer, request.config.bos, request.config.eos);
    record.task = static_cast<std::uint8_t>(planned.task);
    writer.add(record);
  }
  return writer.finish();
}

}  // namespace

io::DocumentRecord encode_document(const io::TextDocument& document, const io::Tokenizer& tokenizer,
                                   Tri bos, Tri eos) {
  io::DocumentRecord record;
  record.id = document.id;
  record.bytes = std::ssize(document.context) + std::ssize(document.text);
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
  const auto& documents = request.plan.documents;
  std::vector<WrittenShard> written;
  ProgressLine progress;
  std::size_t begin = 0;
  for (std::size_t c = 0; c < request.plan.corpora.size(); ++c) {
    const auto corpus = static_cast<std::int64_t>(c);
    for (std::int64_t shard = 0; shard < request.plan.corpora[c].shards; ++shard) {
      if (writer_of(request.plan, corpus, shard, ranks) != rank) {
        continue;
      }
      std::size_t end = begin;
      while (end < documents.size() && documents[end].corpus == corpus &&
             documents[end].shard == shard) {
        ++end;
      }
      const std::span<const PlannedDocument> part(documents.data() + begin, end - begin);
      written.push_back({corpus, shard, io::hdf5_run([&] {
                           return write_shard(request, {corpus, shard}, part);
                         })});
      begin = end;
      progress.show(
          fmt::format("writing shards: {} of {} documents (rank 0)", end, documents.size()));
    }
  }
  return written;
}

std::vector<std::vector<io::ShardInfo>> gather_shards(const std::vector<WrittenShard>& written,
                                                      const WriteRequest& request,
                                                      const comm::Communicator& world) {
  nlohmann::json mine = nlohmann::json::array();
  for (const WrittenShard& each : written) {
    mine.push_back({each.corpus, each.shard, each.info.file.string(), each.info.bytes,
                    each.info.tokens, each.info.documents, each.info.sha256});
  }
  std::vector<std::vector<io::ShardInfo>> shards;
  for (const CorpusPlan& plan : request.plan.corpora) {
    shards.emplace_back(static_cast<std::size_t>(plan.shards));
  }
  for (const std::string& text : world.gather(mine.dump(), 0)) {
    for (const auto& entry : nlohmann::json::parse(text)) {
      auto& shard = shards[entry[0].get<std::size_t>()][entry[1].get<std::size_t>()];
      shard.file = entry[2].get<std::string>();
      shard.bytes = entry[3].get<std::int64_t>();
      shard.tokens = entry[4].get<std::int64_t>();
      shard.documents = entry[5].get<std::int64_t>();
      shard.sha256 = entry[6].get<std::string>();
    }
  }
  return shards;
}

}  // namespace moesaic::cli
