#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "base/error.h"
#include "files/hdf5/file.h"

namespace moesaic::files {

/// A file of a later program (kBadData). It is sound: nothing may set it aside or replace it.
class NewerFormat : public Error {
 public:
  NewerFormat(const std::filesystem::path& file, const std::string& schema, std::int64_t version,
              std::int64_t known, Where where = Where::here());
};

/// Throws kBadData if a file says another schema than this, NewerFormat if its version is above
/// those that this program reads: 1 to `known`.
void check_format(const std::filesystem::path& file, const std::string& its_schema,
                  std::int64_t its_version, const std::string& schema, std::int64_t known);
/// Says in an HDF5 file what it is, in attributes of the root.
void write_format(Hdf5File& file, const std::string& schema, std::int64_t version);
/// As the first, of what write_format wrote.
void check_format(const Hdf5File& file, const std::string& schema, std::int64_t known);

/// Whether an Error says that the bytes of a file are wrong, rather than that they could not be
/// read, or are of a later program.
bool is_damage(const Error& error);

}  // namespace moesaic::files
