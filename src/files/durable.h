#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace moesaic::files {

/// Throws exit_of_read(error) with the absolute path and the reason.
[[noreturn]] void fail_read(const std::filesystem::path& path, int error);
/// Throws WriteError with the reason; where the disk is full, with the bytes that are free.
[[noreturn]] void fail_write(const std::filesystem::path& path, std::string_view what, int error);
/// Makes a finished file durable, then visible: fsync(temporary), rename to final, fsync(folder).
void publish(const std::filesystem::path& temporary, const std::filesystem::path& final);
/// fsync of a file or folder. Throws WriteError.
void sync(const std::filesystem::path& path);
/// Writes a whole small file so that it is there completely or not at all.
void write_whole(const std::filesystem::path& file, const std::string& text);
/// Whether there is such a file or folder, whether it is a folder. Throws what fail_read does where
/// that cannot be told: what cannot be seen is not missing.
bool is_there(const std::filesystem::path& path);
bool is_folder(const std::filesystem::path& path);
/// Throws what fail_read does.
std::string read_whole(const std::filesystem::path& file);
/// The first or last bytes of a file, or all if it has no more. Throws as fail_read does.
std::string read_start(const std::filesystem::path& file, std::int64_t bytes);
std::string read_end(const std::filesystem::path& file, std::int64_t bytes);
/// SHA-256 of a file's bytes, streamed.
std::string sha256_of_file(const std::filesystem::path& file);
/// If `path` exists, renames it to `path.1`, `.2`, ... (first free) and returns the new name, else
/// returns an empty path.
std::filesystem::path set_aside(const std::filesystem::path& path);
/// Removes a file, if it is there. Throws WriteError.
void remove_file(const std::filesystem::path& file);
/// Creates a folder and its parents. Throws kCannotCreate, or kIoError if the storage fails.
void make_folder(const std::filesystem::path& folder);

}  // namespace moesaic::files
