#pragma once

#include <filesystem>
#include <vector>

// A folder that is being written is marked by a file, so that what a killed writer left is known.
namespace moesaic::hf {

/// Sidecar files of a model: those of its tokenizer and of text generation that exist.
std::vector<std::filesystem::path> sidecar_files(const std::filesystem::path& folder);

/// Whether a model may be written there: nothing is, or only what an unfinished writing left.
bool is_free(const std::filesystem::path& folder);
/// Removes the files that write_hf_folder and write_peft_folder make. kCannotCreate.
void clear_written(const std::filesystem::path& folder);
/// Makes the folder and marks it. kCannotCreate if it is not free.
void begin_writing(const std::filesystem::path& folder);
/// Removes the mark.
void end_writing(const std::filesystem::path& folder);

}  // namespace moesaic::hf
