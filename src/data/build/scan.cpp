#include "data/build/scan.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <numeric>
#include <queue>
#include <set>
#include <span>

#include "base/error.h"
#include "base/json.h"
#include "base/progress_line.h"
#include "base/sha256.h"
#include "base/text.h"
#include "comm/pieces.h"
#include "comm/stop.h"
#include "data/build/input.h"
#include "text/tokenizer.h"

namespace moesaic::data {
namespace {

constexpr std::int64_t kSampleBlock = 2000;  // bytes; ends with its line
constexpr double kPackedGrows = 3.0;         // a guess at how much unpacking adds
constexpr double kTwo64 = 18446744073709551616.0;

std::uint64_t leading_bits(const std::string& hex, std::size_t word) {
  return std::stoull(hex.substr(16 * word, 16), nullptr, 16);
}

std::uint64_t hash_of(std::string_view text) {
  return leading_bits(Sha256::of(std::as_bytes(std::span(text))), 0);
}

/// A bijective scrambling of 64 bits (the finalizer of splitmix64).
std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31U);
}

std::array<std::uint64_t, 2> text_hash(const text::TextDocument& document) {
  Sha256 hash;
  if (document.pair) {
    hash.update(std::as_bytes(std::span(document.context)));
    const std::array<std::byte, 1> border{};
    hash.update(border);
  }
  hash.update(std::as_bytes(std::span(document.text)));
  if (document.spans) {
    const std::array<std::byte, 1> border{};
    hash.update(border);
    hash.update(std::as_bytes(std::span(std::string_view(document.prompt ? "prompt" : "spans"))));
    for (const text::TextRange& range : *document.spans) {
      const std::array<std::int64_t, 2> ends = {range.begin, range.end};
      hash.update(std::as_bytes(std::span(ends)));
    }
  }
  if (document.ids) {
    hash.update(std::as_bytes(std::span(*document.ids)));
  }
  const std::string hex = hash.hex();
  return {leading_bits(hex, 0), leading_bits(hex, 1)};
}

/// Reads one rank's files, and keeps what Scan keeps.
class Scanner {
 public:
  Scanner(const std::vector<text::InputFile>& files, const config::Tokenize& config,
          const std::optional<text::Tokenizer>& tokenizer, std::int64_t sample_bytes)
      : files_(files), config_(config), tokenizer_(tokenizer) {
    double text = 1.0;
    for (const text::InputFile& file : files) {
      text += static_cast<double>(file.bytes) * (file.packed ? kPackedGrows : 1.0);
    }
    // Twice what is wanted, as chance may give less; the end of it is cut later.
    sample_limit_ = tokenizer ? 0 : holdout_limit(2.0 * static_cast<double>(sample_bytes) / text);
    scan_.task_names = {"none"};
    task_index_["none"] = 0;
  }

  void read(std::int64_t file);
  Scan take() { return std::move(scan_); }

 private:
  void check_ids(const text::TextDocument& document, const text::InputFile& file) const;
  ScannedDocument scanned(const text::TextDocument& document, std::int64_t file);
  std::int64_t task_of(const text::TextDocument& document, const text::InputFile& file);
  void draw(const text::TextDocument& document, std::uint64_t key);

  const std::vector<text::InputFile>& files_;
  const config::Tokenize& config_;
  const std::optional<text::Tokenizer>& tokenizer_;
  std::uint64_t sample_limit_ = 0;
  std::string group_;  // of the document before
  std::map<std::string, std::int64_t> task_index_;
  Scan scan_;
};

std::int64_t Scanner::task_of(const text::TextDocument& document, const text::InputFile& file) {
  std::string name = document.task;
  if (name.empty() && !config_.task.empty()) {
    name = config_.task[config_.task.size() == 1 ? 0 : static_cast<std::size_t>(file.input)];
  }
  if (name.empty()) {
    return 0;
  }
  const auto [entry, added] = task_index_.emplace(name, std::ssize(scan_.task_names));
  if (added) {
    scan_.task_names.push_back(name);
    check_task_count(scan_.task_names);
  }
  return entry->second;
}

/// Blocks of whole lines, each drawn by its own key.
void Scanner::draw(const text::TextDocument& document, std::uint64_t key) {
  const std::string text = document.context + document.text;
  std::size_t begin = 0;
  for (std::uint64_t block = 0; begin < text.size(); ++block) {
    const std::size_t most = std::min(begin + text::kMaxTrainingText, text.size());
    std::size_t end = text.find('\n', std::min(begin + kSampleBlock, text.size()));
    end = end >= most ? most : end + 1;
    const std::uint64_t drawn = mix(key + block);
    if (drawn < sample_limit_) {
      scan_.sample.emplace_back(drawn, text.substr(begin, end - begin));
    }
    begin = end;
  }
}

void Scanner::read(std::int64_t file) {
  const text::InputFile& input = files_[static_cast<std::size_t>(file)];
  text::DocumentReader reader = open_documents(input, config_);
  text::TextDocument document;
  while (true) {
    try {
      if (!reader.next(document)) {
        return;
      }
      check_ids(document, input);
    } catch (const text::BadLine&) {
      if (config_.on_error == config::OnError::kStop) {
        throw;
      }
      ++scan_.skipped;
      continue;
    }
    comm::check_stop("reading text");
    scan_.documents.push_back(scanned(document, file));
    const ScannedDocument& last = scan_.documents.back();
    if (sample_limit_ > 0 && last.unit_hash >= holdout_limit(config_.holdout)) {
      draw(document, mix(last.hash[0]));
    }
  }
}

/// Ids that come from elsewhere must be of the vocabulary.
void Scanner::check_ids(const text::TextDocument& document, const text::InputFile& file) const {
  if (!document.ids) {
    return;
  }
  const auto where = [&] {
    return fmt::format("{}:{}", std::filesystem::absolute(file.path).string(),
                       document.place.line + 1);
  };
  if (!tokenizer_) {
    throw Error(Exit::kUsage,
                fmt::format("{} has input_ids, which are of a vocabulary already, but "
                            "tokenize.tokenizer = train: name the tokenizer that "
                            "made them",
                            where()));
  }
  for (std::size_t i = 0; i < document.ids->size(); ++i) {
    const std::int64_t id = (*document.ids)[i];
    if (id >= tokenizer_->vocab_size()) {
      throw text::BadLine(
          Exit::kBadData,
          fmt::format("{}: at position {} of input_ids the id {} is not in the vocabulary of {}: "
                      "name the tokenizer that made it (tokenize.tokenizer), or use "
                      "tokenize.on_error=skip",
                      where(), i, id, tokenizer_->vocab_size()));
    }
  }
}

ScannedDocument Scanner::scanned(const text::TextDocument& document, std::int64_t file) {
  ScannedDocument scanned;
  scanned.file = file;
  scanned.line = document.place.line;
  scanned.offset = document.place.offset;
  scanned.bytes = bytes_of(document, tokenizer_ ? &*tokenizer_ : nullptr);
  scanned.hash = text_hash(document);
  scanned.id_hash = hash_of(document.id);
  scanned.task = task_of(document, files_[static_cast<std::size_t>(file)]);
  scanned.repeatable = document.pair || document.prompt;
  scanned.unit_line = scanned.line;
  scanned.unit_hash = scanned.id_hash;
  scanned.grouped = !document.group.empty();
  scanned.weight = document.weight;
  if (scanned.grouped && document.group == group_ && !scan_.documents.empty() &&
      scan_.documents.back().file == file) {
    scanned.unit_line = scan_.documents.back().unit_line;
    scanned.unit_hash = scan_.documents.back().unit_hash;
  }
  group_ = document.group;
  scan_.spans += document.spans ? 1 : 0;
  scan_.prompts += document.prompt ? 1 : 0;
  scan_.with_targets += (document.spans ? document.spans->empty() : document.text.empty()) ? 0 : 1;
  return scanned;
}

}  // namespace

std::vector<text::InputFile> agree_on_files(const config::Tokenize& config,
                                            const comm::Communicator& world) {
  std::string text;
  world.together("list the input", [&] {
    if (!world.is_root()) {
      return;
    }
    Json list = Json::array();
    const text::TextFields fields{config.text_field, config.id_field, config.task_field};
    for (const text::InputFile& file : list_inputs(config.input, fields)) {
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

std::vector<int> owners(const std::vector<text::InputFile>& files, int ranks) {
  std::vector<std::size_t> order(files.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return files[a].bytes > files[b].bytes; });
  using Load = std::pair<std::int64_t, int>;  // bytes, rank
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (int rank = 0; rank < ranks; ++rank) {
    loads.emplace(0, rank);
  }
  std::vector<int> owner(files.size());
  for (const std::size_t file : order) {
    const auto [bytes, rank] = loads.top();
    loads.pop();
    owner[file] = rank;
    loads.emplace(bytes + files[file].bytes + 1, rank);
  }
  return owner;
}

text::DocumentReader open_documents(const text::InputFile& file, const config::Tokenize& config) {
  return {file,
          {config.text_field, config.id_field, config.task_field},
          static_cast<std::int64_t>(config.max_document)};
}

std::int64_t bytes_of(const text::TextDocument& document, const text::Tokenizer* tokenizer) {
  if (document.ids) {
    return std::ssize(tokenizer->decode(*document.ids));
  }
  return std::ssize(document.context) + std::ssize(document.text);
}

void check_task_count(const std::vector<std::string>& names) {
  constexpr std::size_t kMostTasks = 256;  // a task is stored in one byte
  if (names.size() > kMostTasks) {
    throw Error(Exit::kBadData,
                fmt::format("{} task names, above the limit of {}: see tokenize.task and "
                            "tokenize.task_field",
                            names.size() - 1, kMostTasks - 1));
  }
}

std::uint64_t holdout_limit(double share) {
  if (share >= 1.0) {
    return ~std::uint64_t{0};
  }
  return share <= 0.0 ? 0 : static_cast<std::uint64_t>(share * kTwo64);
}

Scan scan_files(const std::vector<text::InputFile>& files, const std::vector<int>& owner, int rank,
                const config::Tokenize& config, const std::optional<text::Tokenizer>& tokenizer,
                std::int64_t sample_bytes) {
  Scanner scanner(files, config, tokenizer, sample_bytes);
  ProgressLine progress;
  std::int64_t done = 0;
  std::int64_t all = 0;
  for (std::size_t file = 0; file < files.size(); ++file) {
    all += owner[file] == rank ? files[file].bytes : 0;
  }
  for (std::size_t file = 0; file < files.size(); ++file) {
    if (owner[file] == rank) {
      scanner.read(static_cast<std::int64_t>(file));
      done += files[file].bytes;
      progress.show(fmt::format("reading text: {} of {} (rank 0)",
                                short_bytes(static_cast<double>(done)),
                                short_bytes(static_cast<double>(all))));
    }
  }
  return scanner.take();
}

void agree_on_tasks(Scan& scan, const config::Tokenize& config, const comm::Communicator& world) {
  std::string mine;  // names, each ended by a NUL
  for (const std::string& name : scan.task_names) {
    mine += name + '\0';
  }
  const auto bytes =
      world.all_gather(std::span(reinterpret_cast<const std::uint8_t*>(mine.data()), mine.size()));
  const std::string every(bytes.begin(), bytes.end());
  std::set<std::string> others;
  for (const std::string& name : split(every, '\0')) {
    others.insert(name);
  }
  std::vector<std::string> names = {"none"};
  others.erase("");
  others.erase("none");
  for (const std::string& name : config.task) {
    if (!name.empty() && std::find(names.begin(), names.end(), name) == names.end()) {
      names.push_back(name);
      others.erase(name);
    }
  }
  names.insert(names.end(), others.begin(), others.end());
  std::map<std::string, std::int64_t> index;
  for (std::size_t i = 0; i < names.size(); ++i) {
    index[names[i]] = static_cast<std::int64_t>(i);
  }
  for (ScannedDocument& document : scan.documents) {
    document.task = index.at(scan.task_names[static_cast<std::size_t>(document.task)]);
  }
  scan.task_names = names;
}

std::string fingerprint(const Scan& scan, const std::string& settings,
                        const comm::Communicator& world) {
  std::array<std::uint64_t, 3> sums{};
  for (const ScannedDocument& document : scan.documents) {
    const auto place = (static_cast<std::uint64_t>(document.file) << 32U) ^
                       static_cast<std::uint64_t>(document.line);
    std::uint64_t what =
        mix(document.id_hash ^ mix(place)) + mix(static_cast<std::uint64_t>(document.task));
    if (document.grouped) {
      what += mix(~static_cast<std::uint64_t>(document.unit_line));
    }
    if (document.weight != 1.0F) {
      what = mix(what) + std::bit_cast<std::uint32_t>(document.weight);
    }
    sums[0] += mix(document.hash[0] ^ what);
    sums[1] += mix(document.hash[1] + what);
    ++sums[2];
  }
  world.all_reduce(std::span<std::uint64_t>(sums), comm::Reduce::kSum);
  const std::string text = fmt::format("{}\n{}\n{} {} {}", settings, join(scan.task_names, "\n"),
                                       sums[0], sums[1], sums[2]);
  return Sha256::of(std::as_bytes(std::span(text)));
}

}  // namespace moesaic::data
