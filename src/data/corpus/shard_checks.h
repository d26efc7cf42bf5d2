#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "files/hdf5/file.h"

// What reading a shard refuses; kBadData names file, dataset and value. On the HDF5 thread.
namespace moesaic::data {

/// What to do about a file of another program that lacks something.
constexpr const char* kShardRemedy =
    "a corpus that another program made needs the attributes schema = moesaic-corpus, version = 1 "
    "and vocab_size, and the datasets /tokens and /documents/offsets (analysis/README.md, A corpus "
    "from any program)";

[[noreturn]] void refuse_shard(const std::filesystem::path& file, const std::string& what);

/// The length of a dataset that must be there and have one dim.
std::int64_t length_of(const files::Hdf5File& file, const std::string& name);

/// A column that may be absent has `documents` entries.
void check_length(const files::Hdf5File& file, const std::string& name, std::int64_t documents);

/// Entries [first, first + size) of offsets: sorted, and the first of all is 0.
void check_sorted(const std::filesystem::path& file, const std::string& name, std::int64_t first,
                  const std::vector<std::int64_t>& offsets);

}  // namespace moesaic::data
