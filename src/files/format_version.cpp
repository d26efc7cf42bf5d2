#include "files/format_version.h"

#include <fmt/format.h>

namespace moesaic::files {

NewerFormat::NewerFormat(const std::filesystem::path& file, const std::string& schema,
                         std::int64_t version, std::int64_t known, Where where)
    : Error(Exit::kBadData,
            fmt::format("{}: is of version {} of {}, this program reads up to version {}: use a "
                        "newer moesaic",
                        std::filesystem::absolute(file).string(), version, schema, known),
            where) {}

void check_format(const std::filesystem::path& file, const std::string& its_schema,
                  std::int64_t its_version, const std::string& schema, std::int64_t known) {
  if (its_schema != schema) {
    throw Error(Exit::kBadData,
                fmt::format("{}: its schema is '{}', not '{}'",
                            std::filesystem::absolute(file).string(), its_schema, schema));
  }
  if (its_version > known) {
    throw NewerFormat(file, schema, its_version, known);
  }
  if (its_version < 1) {
    throw Error(Exit::kBadData,
                fmt::format("{}: has version {} of {}, which there never was",
                            std::filesystem::absolute(file).string(), its_version, schema));
  }
}

void write_format(Hdf5File& file, const std::string& schema, std::int64_t version) {
  file.set_attribute("/", "schema", schema);
  file.set_attribute("/", "version", version);
}

void check_format(const Hdf5File& file, const std::string& schema, std::int64_t known) {
  const std::string its = file.has_attribute("/", "schema") ? file.string_attribute("/", "schema")
                                                            : std::string("none");
  check_format(file.path(), its, its == schema ? file.int_attribute("/", "version") : 0, schema,
               known);
}

bool is_damage(const Error& error) {
  return error.code() == Exit::kBadData && dynamic_cast<const NewerFormat*>(&error) == nullptr;
}

}  // namespace moesaic::files
