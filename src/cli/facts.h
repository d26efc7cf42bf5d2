#pragma once

#include "comm/handshake.h"
#include "config/options.h"
#include "io/corpus.h"
#include "io/model_source.h"

namespace moesaic::cli {

/// What must be the same on all ranks (comm::check_same): the program, the job and its keys as they
/// were given.
comm::Facts facts_of(const config::Parsed& parsed);
/// Every key of a resolved config.
comm::Facts facts_of(const config::Config& config);
/// Shards as this rank's file system shows them: their files, lengths and sums.
comm::Facts::value_type fact_of(std::string_view name, const std::vector<io::ShardInfo>& shards);
/// A model likewise; the path may be empty.
comm::Facts::value_type fact_of_model(const std::filesystem::path& path);

}  // namespace moesaic::cli
