#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "config/config.h"
#include "text/source.h"
#include "text/tokenizer.h"

// The first pass over the text: what there is, without keeping it.
namespace moesaic::data {

/// What is kept of a document. Its place in the input's order is (file, line).
struct ScannedDocument {
  std::int64_t file = 0, line = 0, offset = 0;  // offset: byte in the file
  std::int64_t bytes = 0;                       // of text
  std::array<std::uint64_t, 2> hash{};          // half of the text's SHA-256
  std::uint64_t id_hash = 0;
  std::int64_t task = 0;    // index into Scan::task_names
  bool repeatable = false;  // context and continuation, or a prompt: equal ones are kept by default
  /// Neighbours of one group are a unit: they stay in one shard, and are held out or removed
  /// together. Others are units of their own.
  std::int64_t unit_line = 0;   // of the unit's first document
  std::uint64_t unit_hash = 0;  // of its id
  bool grouped = false;
  float weight = 1.0F;

  bool begins_unit() const { return line == unit_line; }
};

/// A block of text to train a vocabulary on; the smallest keys are taken.
using TextSample = std::pair<std::uint64_t, std::string>;

struct Scan {
  std::vector<ScannedDocument> documents;  // of this rank's files, in order within each file
  std::vector<std::string> task_names;     // [0] = "none"
  std::vector<TextSample> sample;
  std::int64_t skipped = 0;  // bad lines
  // Documents: that name their targets; of these, prompts; with something to predict.
  std::int64_t spans = 0, prompts = 0, with_targets = 0;
};

/// Collective over world: the input files as rank 0 finds them (list_inputs).
std::vector<text::InputFile> agree_on_files(const config::Tokenize& config,
                                            const comm::Communicator& world);

/// The rank that reads each file: the largest files first, each to the rank with least to read.
std::vector<int> owners(const std::vector<text::InputFile>& files, int ranks);

/// A reader of a file's documents as the config says.
text::DocumentReader open_documents(const text::InputFile& file, const config::Tokenize& config);

/// Bytes of text, which ids stand for too: these alone need the tokenizer.
std::int64_t bytes_of(const text::TextDocument& document, const text::Tokenizer* tokenizer);

/// kBadData if a byte cannot count these tasks ([0] = "none").
void check_task_count(const std::vector<std::string>& names);

/// Documents whose id hashes below this are held out.
std::uint64_t holdout_limit(double share);

/// Reads this rank's files. Without a tokenizer, which is then trained: also draws about
/// sample_bytes of text over all ranks.
Scan scan_files(const std::vector<text::InputFile>& files, const std::vector<int>& owner, int rank,
                const config::Tokenize& config, const std::optional<text::Tokenizer>& tokenizer,
                std::int64_t sample_bytes);

/// Collective over world: makes the task names, and each document's index, the same on all ranks:
/// those of tokenize.task in their order, then the others sorted.
void agree_on_tasks(Scan& scan, const config::Tokenize& config, const comm::Communicator& world);

/// Collective over world: a hash of all documents (text, id, task, order) and of `settings`.
std::string fingerprint(const Scan& scan, const std::string& settings,
                        const comm::Communicator& world);

/// Collective over world: removes every document whose text and spans another one before it, in
/// input order, has too, of those that have to be `unique` (auto: all but pairs and prompts), and
/// groups whose documents another group before has. Each rank compares a range of hashes. Returns
/// how many documents were removed over all ranks.
std::int64_t remove_duplicates(Scan& scan, const std::vector<int>& owner, config::Tri unique,
                               const comm::Communicator& world);

}  // namespace moesaic::data
