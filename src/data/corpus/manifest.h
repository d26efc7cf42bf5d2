#pragma once

#include <filesystem>

#include "data/corpus/corpus.h"

// NAME.json, beside the shards that it lists. It is written last: a corpus without one is
// unfinished (or a set of bare shards).
namespace moesaic::data {

/// All manifests in a folder, sorted; none if there is no such folder.
std::vector<std::filesystem::path> manifests_in(const std::filesystem::path& folder);

/// Reads and checks a manifest; the shards are not looked at.
CorpusInfo read_corpus_manifest(const std::filesystem::path& file);
/// The same with the one manifest in a folder. kNoInput if there is none, kBadData naming both if
/// there are two.
CorpusInfo read_corpus_in(const std::filesystem::path& folder);

/// A corpus as one rank hands it to another, and back.
std::string to_text(const CorpusInfo& info);
CorpusInfo corpus_of_text(const std::string& text);

/// Writes info.manifest, completely or not at all.
void write_corpus_manifest(const CorpusInfo& info);

/// Checks that every shard exists and has the size that the manifest says.
void check_shard_files(const CorpusInfo& info);

/// What is wrong with one shard file's presence or size; throws kNoInput or kBadData.
void check_shard_file(const CorpusInfo& info, const ShardInfo& shard);

}  // namespace moesaic::data
