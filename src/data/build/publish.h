#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "data/build/write.h"
#include "data/corpus/corpus.h"

// The folders of finished corpora; on one rank.
namespace moesaic::data {

/// Whether all of the output is there already, made from the same input. Another corpus in its
/// place is kCannotCreate. A corpus whose files are not whole is made again, with a warning.
bool is_published(const std::vector<std::filesystem::path>& folders,
                  const std::string& fingerprint);

/// Makes the folders and puts the tokenizer's file into each. WriteError.
void prepare_folders(const std::vector<std::filesystem::path>& folders,
                     const text::Tokenizer& tokenizer);

/// Writes the manifest of each corpus, which makes it complete. shards: of each corpus, in order.
std::vector<CorpusInfo> publish_manifests(const WriteRequest& request,
                                          std::vector<std::vector<ShardInfo>> shards,
                                          const std::string& fingerprint);

}  // namespace moesaic::data
