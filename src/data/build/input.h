#pragma once

#include <string>
#include <vector>

#include "text/input_file.h"

// Which files the text of a corpus comes from, and what is in them: judged by their first bytes,
// since a name says little (C4 calls gzipped lines of JSON `.json.gz`).
namespace moesaic::data {

/// Files as they are; folders with all below them, also through links, sorted by name, without what
/// is hidden, what is no text (a notice counts it) and the files of a corpus that lies there. A
/// file that is named and is no text is kBadData with what it is; what is missing or may not be
/// read, links that lead nowhere or in a circle, and pipes are kNoInput. All name the absolute
/// path.
std::vector<text::InputFile> list_inputs(const std::vector<std::string>& inputs,
                                         const text::TextFields& fields = {});

}  // namespace moesaic::data
