#pragma once

#include <filesystem>

// A folder that is being written is marked by a file, so that what a killed writer left is known.
namespace moesaic::hf {

/// Makes the folder and marks it. kCannotCreate if it is not free.
void begin_writing(const std::filesystem::path& folder);
/// Removes the mark.
void end_writing(const std::filesystem::path& folder);

}  // namespace moesaic::hf
