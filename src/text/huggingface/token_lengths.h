#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::text {

/// Where in a word each of its tokens ends, in bytes. texts: of each id, in the letters of the
/// model; byte_level: a letter stands for a byte. A token that stands for what has no token takes
/// one character, or all up to the next token that is found again.
std::vector<std::size_t> token_ends(std::string_view word, std::span<const std::int32_t> tokens,
                                    const std::vector<std::string>& texts, bool byte_level);

}  // namespace moesaic::text
